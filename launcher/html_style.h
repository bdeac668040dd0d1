// The style sheet of reports. It has neither '<' nor '&', so that pages are XML as they stand.
#pragma once

namespace convoke {

inline constexpr char kReportStyle[] = R"css(
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f8fa; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de;
  --plain: #6e7781; --good: #1a7f37; --bad: #b3261e;
  --c0: #0b62a4; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce;
  --c4: #946300; --c5: #be185d; --c6: #0e7490; --c7: #4d5560;
  --p0: #c2410c; --p1: #0b62a4; --p2: #0f8a8a; --p3: #8a6100;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --card: #161b22; --ink: #e6edf3; --soft: #9ba5b0; --rule: #30363d;
    --plain: #9ba5b0; --good: #4ac26b; --bad: #ff8a80;
    --c0: #6cb4f5; --c1: #fb9a63; --c2: #5fce85; --c3: #c79bf7;
    --c4: #e3b341; --c5: #f779b0; --c6: #4fd0e0; --c7: #c0c7cf;
    --p0: #fb9a63; --p1: #6cb4f5; --p2: #56d4c4; --p3: #e3b341;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 74rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { max-width: 50rem; margin: .5rem 0; }
.lead { font-size: 1.1rem; }
.soft, footer { color: var(--soft); font-size: .875rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; font-size: .875em; overflow-wrap: anywhere; }
nav ul { columns: 20rem; column-gap: 2rem; padding-left: 1.2rem; margin: .4rem 0; }
nav li { break-inside: avoid; }
a { color: var(--c0); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .3rem 0; }
th, td { padding: .28rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 600; }
.tag {
  display: inline-block; margin-left: .5rem; padding: 0 .45rem; border: 1px solid currentColor;
  border-radius: .6rem; color: var(--bad); font-size: .78rem; font-weight: 400;
}
.yes { color: var(--good); }
.no { color: var(--bad); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; margin: 1rem 0; }
.chart { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .5rem 0 0; padding: 0; font-size: .875rem; }
.legend li { display: flex; align-items: center; gap: .4rem; overflow-wrap: anywhere; }
.chart svg.key { width: 24px; height: 12px; flex: none; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .tick { fill: var(--soft); }
svg .mid { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .name, svg .value { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .value { font-weight: 600; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.whisker { stroke: var(--ink); stroke-width: 1.2; }
.reference { stroke: var(--plain); stroke-width: 1.5; stroke-dasharray: 5 3; }
.line { fill: none; stroke: var(--s); stroke-width: 2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 6 3; }
.fill { fill: var(--s); }
.sp { --s: var(--plain); }
.s0 { --s: var(--c0); } .s1 { --s: var(--c1); } .s2 { --s: var(--c2); } .s3 { --s: var(--c3); }
.s4 { --s: var(--c4); } .s5 { --s: var(--c5); } .s6 { --s: var(--c6); } .s7 { --s: var(--c7); }
.p0 { fill: var(--p0); } .p1 { fill: var(--p1); } .p2 { fill: var(--p2); } .p3 { fill: var(--p3); }
@media (max-width: 40rem) {
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .5rem; }
  .tag { display: block; width: max-content; margin: .1rem 0 0; }
}
@media print {
  :root {
    --page: #ffffff; --card: #ffffff; --ink: #000000; --soft: #444444; --rule: #bbbbbb;
    --plain: #666666; --good: #1a7f37; --bad: #b3261e;
    --c0: #0b62a4; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce;
    --c4: #946300; --c5: #be185d; --c6: #0e7490; --c7: #4d5560;
    --p0: #c2410c; --p1: #0b62a4; --p2: #0f8a8a; --p3: #8a6100;
  }
  body { padding: 0; max-width: none; font-size: 10pt; }
  nav { display: none; }
  .wide { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: .15rem .35rem; }
  .charts { grid-template-columns: 1fr 1fr; }
  .chart, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
)css";

}  // namespace convoke
