"""Snippets of templates for make_chat_templates.py: what a chat template may write, and what must fail.

One snippet a line. A line that starts with "| " continues the one before on a new line.
"""


def rows(text):
    out = []
    for line in text.strip("\n").split("\n"):
        if line.startswith("|"):
            out[-1] += "\n" + line[2:]
        elif line:
            out.append(line)
    return out


GROUPS = {}

GROUPS["white_space"] = rows(r"""
a
|   {% if yes %}
|     b
|   {% endif %}
| c
a {% if yes %} b {% endif %} c
a  {%- if yes -%}  b  {%- endif -%}  c
a  {%+ if yes +%}
|   b {%+ endif %}
| c
   {%+ if yes %}x{% endif %}
   {% if yes %}x{% endif %}
x   {% set a = 1 %}   y
  {{ n }}
|   {{ n }}  
a
| 
|   {{- n -}}
| 
| b
{# c #}
| a
a {# c #} b
   {# c #}
|   b
a  {#- c -#}  b
   {#+ c +#}
| x
{# a
| b #}x
{#{% bad #}x
{#- -#}
{# -#} x
{% raw %}{{ n }}{% endraw %}
{% raw %}
|   {{ n }} {% if %}
|   {% endraw %}
| x
a  {%- raw -%}  b  {%- endraw -%}  c
  {% raw %} b  {% endraw %}
| c
{% raw %}{% rawx %}{%endraw%}
{%raw%}a{% endraw x %}{%endraw%}
{%if yes%}x{%endif%}{%-if yes-%} y {%-endif-%} z
line one
| line two
trailing newline
| 
two trailing
| 
| 
{{ n }}
| 
| 
{{n}}{{n}} {{ n}}
{{ "a" -}}
| 
|    b
{{ '{{' }}{{ '}}' }}{{ '%}' }}
{{ {'a': {'b': 1}} }}
{{ {'a': {'b': 1}}}}
{ { % } } #} %}
a{b}c{ {% if yes %}}{% endif %}
{%- for i in [1, 2] %}
|     {{ i }}
|     {% if i == 1 %}
|     one
|     {% endif %}
| {% endfor %}
| end
{% for i in [1, 2] -%}
|     {{ i }}
| {%- endfor %}
	{% set x = 1 %}	{{ x }}
a {%- set x = 1 %}b
{% set x = 1 -%}
|    b
 {%- if yes %} a{% else %} b{% endif %} {{- n }}
  {% if yes %}  {% if yes %}
|   q
|   {% endif %}{% endif %}
""")
# Line ends that a file written in lines cannot hold.
GROUPS["white_space"] += [
    "a\r\nb\rc\n", "{% if yes %}\r\nx{% endif %}\r\n", "{{ 'a\r\nb' }}", "\n\n{% if yes %}x{% endif %}\n\n", "\u00a0 {% if yes %}x{% endif %}",
    "a\u2003{%- if yes %}x{% endif %}", "{%\n if yes\n%}x{%\nendif\n%}", "x\x0b{%- set a = 1 -%}\x1cy", "", "\n", "\r\n",
    "a\n{%- set a = 1 -%}\n\n\nb\n", "{{ n }}\n{% set a = 1 %}\n{{ n }}", "  \n  {% set a = 1 %}  \n  b", "a\t \t{% set a = 1 %}\n",
]

GROUPS["literals"] = rows(r"""
{{ 1 }} {{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 00 }} {{ 1.5 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 2E+2 }} {{ 1_0.2_5 }}
{{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789012345678.0 }} {{ 1e-4 }} {{ 1e-5 }} {{ 1.0 }} {{ -0.0 }} {{ 1e300 * 1e10 }} {{ 5e-324 }}
{{ 'a' "b" 'c' }}
{{ 'a\nb\t\\ \' \" \x41 \u00e9 \U0001F600 \101 \q \a' }}
{{ "it's" }} {{ 'say "x"' }}
{{ 'line\
| joined' }}
{{ 'two
| lines' }}
{{ true }} {{ True }} {{ false }} {{ False }} {{ none }} {{ None }}
{{ [] }} {{ [1, 'a', none, true, 1.0, [2], {'k': 'v'}] }} {{ [1,] }}
{{ () }} {{ (1,) }} {{ (1, 2) }} {{ 1, 2 }} {{ (1) }}
{{ {} }} {{ {'a': 1, 'b': [2], 3: 4, none: 5, (1, 2): 6} }} {{ {'a': 1,} }}
{{ {'a': 1, 'a': 2} }} {{ {1: 'a', 1.0: 'b', true: 'c'} }}
{{ ["it's", 'say "x"', "both ' and \"", 'back\\slash', 'nl\n\t\r', 'é東', '\x07\x7f\u200b\u00a0'] }}
{{ mixed }} {{ deep }} {{ big }} {{ nil }}
{{ 9223372036854775807 }}
{{ äö }}
""")

GROUPS["operators"] = rows(r"""
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }}
{{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1 / 3 }} {{ 4 / 2 }} {{ 2.0 ** 0.5 }} {{ 10 ** 2 }}
{{ -2 ** 2 }} {{ -n }} {{ +n }} {{ - - 1 }} {{ -f }} {{ +true }} {{ -true }}
{{ true + true }} {{ 1 + 1.0 }} {{ 'a' + 'b' }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'ab' * 3 }} {{ 2 * [1, 2] }} {{ 'ab' * -1 }} {{ 'a' * true }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1] ~ missing }}
{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 >= 2 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ none == false }} {{ 1 != 2 }}
{{ 'a' < 'b' }} {{ 'B' < 'a' }} {{ [1, 2] < [1, 3] }} {{ [1] < [1, 0] }} {{ (1, 'a') < (1, 'b') }} {{ 'é' > 'z' }} {{ '😀' > '\uffff' }}
{{ [1, {'a': [2]}] == [1, {'a': [2.0]}] }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ [1] == (1,) }}
{{ 1 in [1, 2] }} {{ 3 not in [1, 2] }} {{ 'ell' in s }} {{ '' in s }} {{ 'a' in d }} {{ 1 in d }} {{ not 'a' in d }} {{ 'a' in ('a', 'b') }} {{ 1 in missing }}
{{ 1 and 2 }} {{ 0 and 2 }} {{ 0 or 'x' }} {{ '' or none }} {{ not 0 }} {{ not not 1 }} {{ true and not false or false }} {{ [] or {} }}
{{ 'a' if yes else 'b' }} {{ 'a' if no else 'b' }} {{ 'a' if no }} {{ 1 if no else 2 if no else 3 }} {{ ('a' if no) is undefined }}
{{ 1 if yes if no else 2 }}
{{ (1 if yes else 2) + 3 }} {{ 'x' ~ ('y' if yes) }} {{ yes and 'a' or 'b' }}
{{ 2 + 3 ~ 4 }} {{ '1' ~ 2 * 3 }} {{ 'a' ~ 'b' == 'ab' }}
{{ 'a%sb%d' % ('x', 3) }} {{ '%s' % 5 }} {{ '%05.1f|%-5s|%5s|%x|%X|%o|%e|%g|%%' % (2.25, 'a', 'b', 255, 255, 8, 12345.678, 0.0001) }} {{ '%(a)s %(b)r' % {'a': 1, 'b': 'x'} }}
{{ '%+d % d %#x %c %c %i %.2s|%5.1s|%*d' % (5, 5, 255, 'x', 65, 3.9, 'abc', 'xyz', 4, 7) }} {{ '%r' % [1] }} {{ 'x' % [] }} {{ '%s' % missing }} {{ '%s %s' % (none, true) }}
{{ 5 % 0.3 }} {{ 1e308 * 10 }} {{ 3 - -3 }} {{ 3--3 }} {{ 2*-1 }}
{{ n is odd and n > 5 }} {{ not n is even }} {{ n + 1 is even }}
{{ 'b' ~ 'a' | upper }} {{ ('b' ~ 'a') | upper }} {{ -3 | abs }} {{ (-3) | abs }} {{ [1, 2][0] + 1 }}
{{ 9007199254740993 == 9007199254740992.0 }} {{ big == 9007199254740993 }} {{ big + 0.0 }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ [1] + (2,) }}
{{ {} + {} }}
{{ 'a' - 'b' }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ 0 ** -1 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ {} < {} }}
{{ 1 in 'a1' }}
{{ 1 in 5 }}
{{ 'a' in none }}
{{ [] in d }}
{{ missing + 'x' }}
{{ 'x' + missing }}
{{ missing < 1 }}
{{ -missing }}
{{ -'a' }}
{{ '%d' % 'a' }}
{{ '%s %s' % 1 }}
{{ '%s' % (1, 2) }}
{{ '%(a)s' % 1 }}
{{ '%(z)s' % {'a': 1} }}
{{ '%y' % 1 }}
{{ 'x' % 1 }}
{{ {[]: 1} }}
{{ {'a': 1}[[]] }}
""")

GROUPS["access"] = rows(r"""
{{ d.a }} {{ d['a'] }} {{ d.nested.x[1] }} {{ d['nested']['x'][-1] }} {{ d.missing }}| {{ d.missing is defined }}
{{ d.items() | list }} {{ d['items'] }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('a') }} {{ d.get('q') }} {{ d.get('q', 5) }}
{{ nums[0] }} {{ nums[-1] }} {{ nums[9] }}| {{ nums.0 }} {{ nums[true] }} {{ s[0] }} {{ s[-1] }} {{ s[99] }}| {{ s[1.5] }}|
{{ nums[1:] }} {{ nums[:2] }} {{ nums[::-1] }} {{ nums[::2] }} {{ nums[-2:] }} {{ nums[5:] }} {{ nums[2:0:-1] }} {{ nums[:-1] }} {{ nums[none:none] }} {{ (1, 2, 3)[1:] }}
{{ s[1:4] }} {{ s[::-1] }} {{ s[-3:] }} {{ s[:-100] }} {{ s[100:] }} {{ s[::3] }} {{ u[2:6] }} {{ u[::-1] }} {{ u[4] }} {{ u[-2:] }} {{ s[5:2] }} {{ s[10:2:-3] }}
{{ s[-100:100:100] }} {{ s[3::-1] }} {{ s[:3:-1] }} {{ nums[-9:9] }} {{ nums[9:-9:-1] }} {{ ''[::-1] }}| {{ 'a'[::-9223372036854775807] }}
{{ none.x }}| {{ n.x }}| {{ nums.x }}| {{ s.x }}| {{ none['x'] }}| {{ n[0] }}| {{ d[none] }}| {{ d[[1]] }}|
{{ missing }}| {{ missing is undefined }} {{ (missing) | default('x') }} {{ missing | length }} {{ missing | list }} {{ missing == missing2 }} {{ missing == none }}
{{ missing.x is defined }}
{{ d.missing.x }}
{{ missing.x }}
{{ missing[0] }}
{{ missing['x'] }}
{{ missing() }}
{{ none.x.y }}
{{ s() }}
{{ none() }}
{{ d.a() }}
{{ missing[1:] }}
{{ n[1:] }}
{{ d[1:] }}
{{ nums['a':] }}
{{ nums[::0] }}
{{ nums[1.0:] }}
{{ nums.append(1) }}
{{ d.update({'x': 1}) }}
{{ nums.append is defined }} {{ d.pop is defined }} {{ nums.sort is defined }}
{{ s.__class__ }}| {{ ''.__class__.__mro__ is defined }} {{ d.__class__ }}|
{{ s.__class__.__name__ }}
{{ messages[0].role }} {{ messages[-1]['content'] }} {{ messages[0]['nope'] }}| {{ messages | length }} {{ tools is none }} {{ documents is none }}
{{ (1, 2, 3)[1] }} {{ {'a': 'b'}['a'] }} {{ 'abc'[1] }} {{ [[1, 2], [3]][0][1] }} {{ d[('a')] }} {{ {(1, 2): 'x'}[1, 2] }}
{{ range(3)[1] }} {{ range(5)[1:3] | list }} {{ range(5)[::-1] | list }} {{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }} {{ range(3, 1) | list }} {{ 2 in range(3) }} {{ range(3) }} {{ range(2, 5) | length }}
{{ range(200000) | list | length }}
{{ range() }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ range(1.0) }}
{{ dict(a=1, b=2) }} {{ dict({'a': 1}, b=2) }} {{ dict([('x', 1), ('y', 2)]) }} {{ dict() }}
{{ dict(1) }}
{{ namespace(a=1).a }} {{ namespace({'b': 2}).b }} {{ namespace().x }}| {{ namespace(items=1).items }}
{{ namespace(_a=1) }}
{{ raise_exception('no ' ~ n) }}
{{ raise_exception() }}
{{ raise_exception('x' + 'é') if yes }}
{{ strftime_now() }}
{{ strftime_now('') }}| {{ strftime_now('%%') }} {{ strftime_now is callable }}
{{ undefined_function('x') }}
{{ d.get() }}
{{ d.get('a', 1, 2) }}
{{ {'x': {'keys': 3}}.x['keys'] }} {{ {'content': none}.content is none }} {{ {'content': none}['content'] is defined }}
""")

GROUPS["statements"] = rows(r"""
{% for x in nums %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ', ' if not loop.last }}{% endfor %}
{% for x in nums %}{{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.previtem }} {{ loop.nextitem }} {{ loop.depth }} {{ loop.depth0 }};{% endfor %}
{% for x in nums %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{% endfor %}
{% for x in nums if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {{ loop.last }} {% endfor %}
{% for x in nums if x > 1 %}{{ x }}{{ loop.nextitem }}{{ loop.revindex }};{% endfor %}
{% for x in [] %}a{% else %}none{% endfor %} {% for x in nums if x > 9 %}a{% else %}none{% endfor %} {% for x in missing %}a{% else %}none{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %} {% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for c in 'héy' %}[{{ c }}]{% endfor %} {% for x in (1, 2) %}{{ x }}{% endfor %} {% for x in 1, 2 %}{{ x }}{% endfor %}
{% for x, in [(1,)] %}{{ x }}{% endfor %}
{% set x, = (1,) %}{{ x }}
{% for x in nums %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if x == 2 %}{% break %}{% endif %}{% endfor %}
{% for x in nums %}{% continue %}{% else %}else{% endfor %} {% for x in nums %}{% break %}{% else %}else{% endfor %} {% for x in nums %}{% if loop.first %}{% continue %}{% endif %}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% for y in [1, 2] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}
{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}
{% for x in [[1, 2], [3]] %}{% set outer = loop %}{% for y in x %}{{ outer.index }}.{{ loop.index }} {% endfor %}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}
{% set x = 1 %}{% if yes %}{% set x = 2 %}{% endif %}{{ x }} {% if no %}{% set q = 2 %}{% endif %}{{ q }}|
{% set ns = namespace(v=0, l=[]) %}{% for i in nums %}{% set ns.v = ns.v + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.v }} {{ ns.l }}
{% set ns = namespace(found=false) %}{% for m in nums if not ns.found %}{{ m }}{% if m == 1 %}{% set ns.found = true %}{% endif %}{% endfor %}
{% set ns = namespace(a=1) %}{% set ns.b, c = 2, 3 %}{{ ns.a }}{{ ns.b }}{{ c }} {{ ns }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set a, b = b, a %}{{ a }}{{ b }} {% set t = 1, %}{{ t }}
{% set x %}a {{ n }}  {% endset %}[{{ x }}] {% set y | upper | trim %} b {% endset %}[{{ y }}] {% set z | replace('a', 7) %}banana{% endset %}{{ z }}
{% set x %}{% set inner = 1 %}{% endset %}{{ inner is defined }} {{ x is string }}
{% filter upper %}abc {{ s }}{% endfilter %} {% filter replace('a', 'b') | trim %} aa {% endfilter %}|
{% if 0 %}a{% elif '' %}b{% elif [] %}c{% elif n %}d{% else %}e{% endif %} {% if missing %}x{% endif %}{% if d %}y{% endif %}{% if 0.0 %}z{% endif %}
{% if nums | select('gt', 100) %}always{% endif %} {% if nums | select('gt', 100) | list %}a{% else %}b{% endif %}
{% if yes and
|    (n > 5 or
|     no) %}x{% endif %}
{% if yes: %}x{% endif %} {% for x in nums: %}{{ x }}{% endfor %}
{% macro m(a, b=2, c='x') %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=5) }}{{ m(b=1, a=0) }}{{ m() }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{{ n }}{% endmacro %}{{ m(1) }} {{ m(1) | length }} {{ m(1) ~ m(2) }} {{ m }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro f(n) %}{% if n > 1 %}{{ n * f(n - 1) | int }}{% else %}1{% endif %}{% endmacro %}{{ f(5) }}
{% macro m() %}{{ late }}{% endmacro %}{% set late = 'set after' %}{{ m() }}
{% macro m(x) %}{% set y = x %}{{ y }}{% endmacro %}{{ m(1) }}{{ y is defined }} {% macro k() %}{{ caller() }}{% endmacro %}{% call k() %}body {{ n }}{% endcall %}
{% macro each(l) %}{% for x in l %}{{ caller(x, loop.index) }};{% endfor %}{% endmacro %}{% call(x, i) each(words) %}{{ i }}={{ x }}{% endcall %}
{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}
{% macro q(caller) %}{{ caller }}{% endmacro %}{{ q(3) }}
{% macro q(caller=1) %}{{ caller }}{% endmacro %}{{ q(3) }}{{ q() }}
{% macro m(a) %}{{ caller is defined }}{% endmacro %}{{ m(1) }}
{% macro m(*a) %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=2) }}
{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}{{ m(1, *[2]) }}{{ m(*(5,), **{'b': 6}) }}
{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }} {% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}
{% with a = 1 %}{% with b = a + 1 %}{{ b }}{% endwith %}{% endwith %}
{% print n %}{% print n, s %}
{% generation %}a{% set g = 1 %}{{ g }}{% endgeneration %}{{ g is defined }} {% for x in [1, 2] %}{% generation %}{{ loop.index }}{{ x }}{% endgeneration %}{% endfor %}
{% for x in nums %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% for i in range(3) %}{% set x %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endset %}{{ x }}{% endfor %}
{% for x in nums | sort %}{{ x }}{% endfor %} {% for x in nums | reverse %}{{ x }}{{ loop.length }}{% endfor %} {% for x in 'abc' | reverse %}{{ x }}{% endfor %}
{% set it = nums | map('string') %}{% for x in it %}{{ x }}{% break %}{% endfor %}{% for x in it %}[{{ x }}]{% endfor %}{{ it | list }}
{% set it = d.items() %}{{ it | list | length }}{{ it | list | length }}{{ it | length }} {% set k = d.keys() %}{{ k | first }} {{ 'a' in k }} {{ k }} {{ d.values() }} {{ it }}
{% for x in nums %}{% if loop.index is divisibleby 2 %}{{ x }}{% endif %}{% endfor %} {% for x in nums %}{% if loop.previtem is defined and loop.previtem > x %}<{% endif %}{% endfor %}
{% for key, items in {'b': [1], 'a': [2, 3]} | dictsort %}{{ key }}{{ items }}{% endfor %}
{% for m in messages %}{{ m.role }}{% set role = m.role %}{% endfor %}{{ role is defined }}
{% for i in nums %}{{ i }}{% endfor %}{{ i is defined }}{{ loop is defined }}
{% set loop = 5 %}{{ loop }}
{% for x in nums %}{% set loop = 5 %}{% endfor %}
{% for loop in nums %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for a, b in [1, 2] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [(1,)] %}{% endfor %}
{% for a, b in ['xy'] %}{{ a }}{{ b }}{% endfor %}
{% set a, b = 1 %}
{% set a, b = 1, 2, 3 %}
{% set d.x = 1 %}
{% set q.x = 1 %}
{% set ns = namespace() %}{% set ns._x = 1 %}
{% set ns = namespace() %}{% set ns['x'] = 1 %}
{% for x in nums %}{{ loop.nope }}|{% endfor %}
{% for x in nums %}{{ loop.cycle() }}{% endfor %}
{% for x in nums %}{{ loop(x) }}{% endfor %}
{% for x in nums %}{{ x }}
{% if yes %}x
{% if yes %}x{% endfor %}
{% endif %}
{% else %}
{% unknown %}
{% if %}x{% endif %}
{% for x nums %}{% endfor %}
{% for in nums %}{% endfor %}
{% set %}
{% set 1 = 2 %}
{% set none = 2 %}
{% set x + 1 = 2 %}
{% set x = %}
{% break %}
{% if yes %}{% continue %}{% endif %}
{% macro %}{% endmacro %}
{% macro m(1) %}{% endmacro %}
{% call 5 %}{% endcall %}
{% filter %}{% endfilter %}
{% filter nope %}{% endfilter %}
{% raw %}
{# open
{{ n
{{ n }
{% if n
{{ }}
{{ 1 2 }}
{{ (1 }}
{{ [1 }}
{{ 1) }}
{{ {'a' 1} }}
{{ {'a': } }}
{{ 'open }}
{{ a.1b }}
{{ a. }}
{{ a! }}
{{ a $ b }}
{{ n | }}
{{ n | nope }}
{{ n is nope }}
{{ n is }}
{{ f(a=1, 2) }}
{{ f(**a, b) }}
{{ f(a=1, a=2) }}
{{ n == }}
{{ not }}
{{ '\x4' }}
{{ '\u12' }}
{{ n is odd is even }}
{% if no %}{{ n | nope }}{% endif %}ok
{% if no %}{% if 'q' is nope %}{% endif %}{% endif %}ok
{% if yes %}{{ n | nope }}{% endif %}
{% if yes %}{% if n is nope %}x{% endif %}{% endif %}
{% if no %}{% for x in nums %}{{ x | nope }}{% endfor %}{% endif %}
{{ (n | nope) if no else 'ok' }}
{{ 'ok' if yes else n | nope }}
{% if 'nope' is filter %}{{ n | nope }}{% else %}no filter{% endif %} {{ 'upper' is filter }} {{ 'odd' is test }} {{ 'nope' is test }}
a
| b
| {% if
| x %}{{ missing.y }}{% endif %}
| {{ missing.y }}
""")

GROUPS["filters"] = rows(r"""
{{ ws | trim }}| {{ 'xxaxx' | trim('x') }} {{ ' a ' | trim }} {{ 5 | trim }} {{ none | trim }} {{ missing | trim }}| {{ [1] | trim }}
{{ s | length }} {{ nums | count }} {{ d | length }} {{ u | length }} {{ '' | length }} {{ (1, 2) | length }}
{{ s | upper }} {{ s | lower }} {{ u | upper }} {{ u | lower }} {{ u | title }} {{ u | capitalize }} {{ 'ŉ ﬁ ΐ ΑΣ ΑΣΑ' | upper }} {{ 'ΑΣ ΑΣΑ Σ İ' | lower }} {{ 5 | upper }} {{ none | lower }}
{{ "hello wORLD-foo (bar) [baz] it's <x y" | title }} {{ 'hELLO wORLD' | capitalize }} {{ '' | title }}| {{ 'ﬁne ǆ' | title }} {{ 'ǆx ßA' | capitalize }}
{{ 'aaa' | replace('a', 'b') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc' | replace('', '-') }} {{ 121 | replace(1, 0) }} {{ 'aXa' | replace('X', '') }} {{ 'abc' | replace('', '-', 2) }} {{ 'a' | replace(new='b', old='a') }}
{{ nums | join }} {{ nums | join(', ') }} {{ words | join('') }} {{ people | join(',', attribute='name') }} {{ 'abc' | join('-') }} {{ d | join(' ') }} {{ mixed | join('|') }} {{ [] | join(',') }}| {{ missing | join }}| {{ nums | join(d=1) }}
{{ nums | first }} {{ nums | last }} {{ s | first }} {{ s | last }} {{ [] | first }}| {{ [] | last }}| {{ d | first }} {{ d | last }} {{ missing | first }}| {{ (nums | map('string')) | first }}
{{ missing | default('x') }} {{ none | default('x') }} {{ none | default('x', true) }} {{ '' | d('x', true) }} {{ 0 | default(5) }} {{ d.q | default }}| {{ missing | default(boolean=true, default_value=3) }}
{{ 'abc' | list }} {{ d | list }} {{ (1, 2) | list }} {{ missing | list }} {{ nums | list == nums }}
{{ 5 | string ~ 'x' }} {{ none | string }} {{ [1, 'a'] | string }} {{ true | string | length }} {{ missing | string }}|
{{ '42' | int }} {{ ' 42 ' | int }} {{ '4.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 4.9 | int }} {{ -4.9 | int }} {{ none | int }} {{ true | int }} {{ '0x1F' | int(0, 16) }} {{ '101' | int(base=2) }} {{ '1_000' | int }} {{ '1e3' | int }} {{ '' | int }} {{ [] | int }} {{ '+5' | int }} {{ '--5' | int }} {{ '0b11' | int(base=0) }} {{ 'nan' | int }} {{ 'inf' | int }} {{ 'zz' | int(base=36) }} {{ '_1' | int }}
{{ '1.5' | float }} {{ 'x' | float }} {{ 'x' | float(2.5) }} {{ 3 | float }} {{ ' 1e3 ' | float }} {{ none | float }} {{ 'inf' | float }} {{ '-nan' | float }} {{ '.5' | float }} {{ '5.' | float }} {{ '1_0.5' | float }} {{ '-Infinity' | float }} {{ '1e999' | float }} {{ '0x1' | float }}
{{ -3 | abs }} {{ -2.5 | abs }} {{ true | abs }}
{{ 42.55 | round }} {{ 42.55 | round(1) }} {{ 42.55 | round(1, 'floor') }} {{ 42.55 | round(1, 'ceil') }} {{ 2.5 | round }} {{ 3.5 | round }} {{ -2.5 | round }} {{ 2.675 | round(2) }} {{ 7 | round }} {{ 1234 | round(-2) }} {{ 1250 | round(-2) }} {{ 1350 | round(-2) }} {{ 1234.5 | round(-2) }} {{ 42 | round(0, 'floor') }} {{ 1e300 | round(5) }} {{ -1250 | round(-2) }} {{ true | round }} {{ 0.1 | round(20) }}
{{ nums | sum }} {{ [0.1, 0.2] | sum }} {{ people | sum(attribute='age') }} {{ [] | sum }} {{ nums | sum(start=10) }} {{ [[1], [2]] | sum(start=[]) }}
{{ nums | min }} {{ nums | max }} {{ words | min }} {{ words | max }} {{ words | max(true) }} {{ people | max(attribute='age') }} {{ [] | min }}| {{ words | min(case_sensitive=true) }} {{ d | max }}
{{ nums | sort }} {{ nums | sort(reverse=true) }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sort(attribute='age,name') | map(attribute='name') | list }} {{ people | sort(true, attribute='age') | map(attribute='name') | list }} {{ 'hello' | sort }} {{ d | sort }}
{{ nums | unique | list }} {{ ['a', 'A', 'b', 1, 1.0, true] | unique | list }} {{ ['a', 'A'] | unique(true) | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }}
{{ nums | reverse | list }} {{ s | reverse }} {{ u | reverse }} {{ d | reverse | list }} {{ nums | map('string') | reverse }} {{ (1, 2) | reverse | list }}
{{ d | items | list }} {{ missing | items | list }} {{ d | dictsort }} {{ {'B': 1, 'a': 2} | dictsort }} {{ {'B': 1, 'a': 2} | dictsort(true) }} {{ {'B': 2, 'a': 1} | dictsort(by='value') }} {{ {'B': 2, 'a': 1} | dictsort(reverse=true) }}
{{ 'a\nb\n\nc' | indent }}| {{ 'a\nb' | indent(2) }} {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(2, blank=true) }} {{ 'a\nb' | indent('> ', first=true) }} {{ 'a\n' | indent }}| {{ '' | indent }}| {{ 'a\r\nb\x0bc\u2028d' | indent(1) }} {{ '\n\n' | indent(1) }}|
{{ '<a href="x">&\'</a>' | e }} {{ '<' | escape }} {{ '<b>' | safe }} {{ 5 | e }} {{ none | e }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 'x') | list }} {{ [] | batch(3) | list }} {{ [1, 2, 3, 4, 5] | slice(3) | list }} {{ [1, 2, 3, 4, 5] | slice(3, 'x') | list }} {{ [1] | slice(3) | list }}
{{ people | map(attribute='name') | list }} {{ nums | map('string') | list }} {{ words | map('upper') | join }} {{ people | map(attribute='zip', default='?') | list }} {{ people | map(attribute='tags.0', default='-') | list }} {{ ['a'] | map('replace', 'a', 'b') | list }} {{ missing | map('upper') | list }} {{ [[1, 2], [3]] | map('first') | list }} {{ [(1, 2)] | map(attribute=1) | list }} {{ ['1', 'x'] | map('int', default=7) | list }} {{ people | map('attr', 'name') | list }}
{{ nums | select('odd') | list }} {{ nums | reject('odd') | list }} {{ mixed | select | list }} {{ mixed | reject | list }} {{ nums | select('gt', 2) | list }} {{ words | select('in', ['a', 'b']) | list }} {{ mixed | select('string') | list }} {{ nums | select('==', 3) | list | length }} {{ missing | select | list }}
{{ people | selectattr('on') | map(attribute='name') | list }} {{ people | rejectattr('on') | map(attribute='name') | list }} {{ people | selectattr('age', 'equalto', 30) | map(attribute='name') | list }} {{ people | selectattr('zip', 'defined') | list }} {{ people | rejectattr('name', 'eq', 'Zoe') | list | length }} {{ messages | selectattr('role', 'eq', 'user') | list }} {{ people | selectattr('tags') | list | length }} {{ people | selectattr('age', 'defined') | map(attribute='name') | first }}
{{ '%s-%d' | format('a', 5) }} {{ '%(x)s' | format(x=1) }} {{ 'x' | center(5) }}| {{ 'ab' | center(5) }}| {{ 'hello brave new world' | truncate(12) }} {{ 'hello brave new world' | truncate(12, true) }} {{ 'hello' | truncate(4) }} {{ 'hello brave new world' | truncate(12, leeway=0, end='!') }} {{ 'hello there world' | wordcount }} {{ d | attr('items') is callable }} {{ d | attr('a') }}|
{{ d | tojson }} {{ deep | tojson }} {{ mixed | tojson }} {{ s | tojson }} {{ none | tojson }} {{ 1.0 | tojson }} {{ (1, 2) | tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ deep | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [1, [2]] | tojson(indent=0) }} {{ [1] | tojson(indent='\t') }} {{ [1, 2] | tojson(indent=none) }} {{ [1] | tojson(indent=-1) }}
{{ 'é東😀\x7f</script>' | tojson }} {{ 'é東😀\x7f' | tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }} {{ [1, {'a': 2}] | tojson(separators=(',', ':')) }} {{ [1, 2] | tojson(separators=(';', '='), indent=1) }} {{ [1, 2] | tojson(true) }}
{{ [1e400 - 1e400, 1e400, -1e400] | tojson }} {{ 'a\u2028b' | tojson }} {{ '\b\f\n\r\t\x0b\x00\x1f"\\/' | tojson }} {{ 123456789012 | tojson }} {{ 1e100 | tojson }}
{{ range(3) | list | tojson }} {{ d.items() | list | tojson }} {{ messages | tojson }}
{{ 'a' | upper | lower | upper }} {{ nums | sort | first }} {{ s | replace('World', 'x') | upper }} {{ (s | lower).split() }} {{ s.lower() | title }} {{ 'x' | default('y') | upper }}
{{ missing | tojson }}
{{ range(3) | tojson }}
{{ nums | map('string') | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ namespace() | tojson }}
{{ {'a': missing} | tojson }}
{{ {'b': 1, 2: 1} | tojson(sort_keys=true) }}
{{ 5 | length }}
{{ none | length }}
{{ nums | map('string') | length }}
{{ nums | map('string') | last }}
{{ 5 | list }}
{{ none | join }}
{{ none | first }}
{{ missing | last }}
{{ missing | int }}
{{ missing | float }}
{{ 'a' | abs }}
{{ 'a' | round }}
{{ 1 | round(1, 'x') }}
{{ mixed | sort }}
{{ [none, 1] | max }}
{{ ['a'] | sum }}
{{ [[1]] | unique | list }}
{{ 5 | reverse }}
{{ nums | items | list }}
{{ nums | dictsort }}
{{ none | indent }}
{{ nums | map('nope') | list }}
{{ nums | map | list }}
{{ nums | map(attribute='a', x=1) | list }}
{{ nums | select('nope') | list }}
{{ people | selectattr | list }}
{{ people | map(attribute='zip.x') | list }}
{{ nums | batch | list }}
{{ nums | slice(0) | list }}
{{ s | replace('a') }}
{{ s | upper(1) }}
{{ s | trim(1) }}
{{ s | split(' ') }}
{{ s | join(x=1) }}
{{ '%d' | format('a') }}
{{ '%s' | format(1, x=2) }}
{{ 'hello world' | truncate(2) }}
""")

GROUPS["tests"] = rows(r"""
{{ s is defined }} {{ missing is defined }} {{ missing is undefined }} {{ d.q is undefined }} {{ nil is defined }} {{ s is not defined }}
{{ nil is none }} {{ missing is none }} {{ 0 is none }} {{ nil is not none }} {{ none is none }}
{{ s is string }} {{ 5 is string }} {{ none is string }} {{ nums is string }} {{ (s | safe) is string }}
{{ d is mapping }} {{ nums is mapping }} {{ s is mapping }} {{ namespace() is mapping }} {{ missing is mapping }}
{{ s is iterable }} {{ nums is iterable }} {{ d is iterable }} {{ 5 is iterable }} {{ none is iterable }} {{ missing is iterable }} {{ (nums | map('string')) is iterable }} {{ range(3) is iterable }}
{{ s is sequence }} {{ nums is sequence }} {{ d is sequence }} {{ (1,) is sequence }} {{ 5 is sequence }} {{ missing is sequence }} {{ d.items() is sequence }} {{ (nums | map('string')) is sequence }} {{ range(3) is sequence }} {{ none is sequence }}
{{ 5 is number }} {{ 1.5 is number }} {{ true is number }} {{ '5' is number }} {{ 5 is integer }} {{ 5.0 is integer }} {{ true is integer }} {{ 5.0 is float }} {{ 5 is float }} {{ true is boolean }} {{ 1 is boolean }}
{{ true is true }} {{ 1 is true }} {{ false is false }} {{ 0 is false }} {{ yes is true }} {{ no is false }} {{ missing is false }}
{{ 2 is even }} {{ 3 is odd }} {{ -3 is odd }} {{ 3.0 is odd }} {{ 2.5 is even }} {{ true is odd }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(4) }} {{ 9 is not divisibleby 4 }}
{{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 2 is gt 1 }} {{ 2 is ge 3 }} {{ 1 is lessthan 2 }} {{ 1 is greaterthan 2 }} {{ 'a' is eq 'a' }} {{ 1 is sameas 1 }} {{ none is sameas none }} {{ true is sameas 1 }}
{{ 1 is in [1, 2] }} {{ 'a' is in 'abc' }} {{ 3 is not in nums }} {{ 'a' is in d }} {{ 'a' is in(d) }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'Abc' is lower }} {{ '1' is lower }} {{ 'é' is lower }} {{ 5 is upper }} {{ '' is lower }}
{{ s is callable }} {{ range is callable }} {{ s.upper is callable }} {{ missing is callable }} {{ 'x' is escaped }}
{{ s is string and n is number }} {{ s is defined or x }} {{ not s is string }} {{ (s is string) == true }} {{ 'x' if s is string else 'y' }} {{ n is defined and n is not none and n > 3 }}
{{ d.a is eq 2 and d.b is eq 1 }} {{ n is divisibleby d.nested.x[0] }} {{ [1] is eq [1] }} {{ nums[0] is odd }} {{ d['a'] is defined }} {{ -n is number }}
{{ s is odd }}
{{ none is even }}
{{ missing is odd }}
{{ 5 is divisibleby 0 }}
{{ 1 is lt 'a' }}
{{ 1 is eq }}
{{ 1 is in 5 }}
{{ 1 is defined(2) }}
{{ 1 is eq(1, 2) }}
""")

GROUPS["methods"] = rows(r"""
{{ ws.strip() }}| {{ ws.lstrip() }}| {{ ws.rstrip() }}| {{ 'xyxaxyx'.strip('xy') }} {{ '\n\na\n'.lstrip('\n') }}| {{ 'aéa'.strip('é') }} {{ 'éaé'.strip('éx') }} {{ 'a'.strip(none) }} {{ 'a'.strip('') }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a b c'.split(maxsplit=1) }} {{ 'abc'.split('x') }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a</think>b'.split('</think>')[-1] }} {{ 'a b  c '.split(' ', -1) }} {{ 'a\u3000b\x1cc'.split() }} {{ ' a b '.split(none, 0) }} {{ 'aaa'.split('aa') }} {{ 'a,b'.split(sep=',', maxsplit=0) }}
{{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ 'a,b'.rsplit(',') }} {{ 'aaa'.rsplit('aa') }} {{ 'a b c'.rsplit() }} {{ ''.rsplit(',') }} {{ ',a,'.rsplit(',', 1) }} {{ 'x'.rsplit(',', 0) }} {{ ' a b '.rsplit(none, 0) }}
{{ 'a\nb\r\nc\rd\u2028e\x0bf\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ ''.splitlines() }} {{ 'a\n\nb'.splitlines(keepends=true) }}
{{ s.startswith('Hello') }} {{ s.endswith('x') }} {{ s.startswith(('x', 'He')) }} {{ s.endswith(()) }} {{ s.startswith('World', 6) }} {{ s.endswith('Hello', 0, 5) }} {{ s.startswith('') }} {{ u.endswith('\u0301') }} {{ s.startswith('ell', 1, 4) }} {{ s.startswith('Hello World!') }}
{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'abc'.replace('', '.') }} {{ 'é'.replace('é', 'e') }} {{ 'aaa'.replace('aa', 'b') }} {{ ''.replace('', 'x') }} {{ 'abc'.replace('b', '', 0) }} {{ 'ab'.replace('', '.', 1) }} {{ 'aa'.replace('a', 'bb', -1) }}
{{ s.upper() }} {{ s.lower() }} {{ u.upper() }} {{ u.lower() }} {{ u.title() }} {{ u.capitalize() }} {{ "they're bill's".title() }} {{ 'aB cD'.swapcase() }} {{ 'x1y z'.title() }} {{ ''.capitalize() }}| {{ 'ßx'.swapcase() }} {{ 'ŉa'.title() }}
{{ s.find('o') }} {{ s.find('zz') }} {{ s.rfind('o') }} {{ s.find('o', 5) }} {{ u.find('Σ') }} {{ s.find('') }} {{ s.rfind('') }} {{ s.find('o', 0, 3) }} {{ s.find('o', -4) }} {{ s.find('', 99) }} {{ s.index('W') }} {{ s.rindex('l') }} {{ s.count('l') }} {{ s.count('') }} {{ s.count('l', 4) }} {{ u.count('ß') }} {{ u.rfind('é') }} {{ 'aaa'.count('aa') }} {{ u.find('é', 3) }} {{ s.find('', 11) }} {{ s.rfind('o', 0, 6) }}
{{ ', '.join(words) }} {{ ''.join(['a', 'b']) }} {{ '-'.join('abc') }} {{ '-'.join([]) }}| {{ ','.join(words | map('upper')) }} {{ ','.join(d) }} {{ ','.join(('x',)) }}
{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{x}-{y}'.format(x=1, y=n) }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }} {{ '{:05d} {:+d} {:x} {:b} {:,} {:o} {:#x} {: d}'.format(42, 5, 255, 5, 1234567, 8, 255, 3) }} {{ '{:.2f} {:8.3f} {:e} {:g} {:%} {:.1%} {:,.2f}'.format(3.14159, 2.5, 12345.678, 0.00001, 0.25, 0.125, 1234.5) }} {{ '{{}}'.format() }} {{ '{0[a]} {0[b]} {1.real}'.format({'a': 1, 'b': 2}, 3) if no else '{0[a]} {0.a}'.format({'a': 1}) }} {{ '{!r} {!s}'.format('x', 'y') }} {{ '{:{}}|{:.{p}}'.format('a', 5, 'abcdef', p=2) }} {{ '{:.3}'.format('abcdef') }} {{ '{:é^5}'.format('x') }} {{ '{}'.format(none) }} {{ '{} {}'.format(true, [1]) }} {{ '{:d}'.format(true) }} {{ '{:>6}'.format(1.5) }} {{ '{:06.2f}'.format(-1.5) }} {{ '{:s}'.format('a') }} {{ '{0[1]}'.format([5, 6]) }}
{{ 'abc'.isalpha() }} {{ 'a1'.isalnum() }} {{ '12'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ ' \t'.isspace() }} {{ ''.isspace() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ 'é'.isascii() }} {{ ''.isascii() }} {{ 'é'.isalpha() }} {{ '٣'.isdigit() }} {{ '1'.islower() }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ 'x'.removesuffix('') }} {{ 'x'.removeprefix('y') }} {{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('-') }} {{ 'abc'.rpartition('-') }}
{{ 'a'.center(4) }}| {{ 'ab'.center(5, '*') }} {{ 'abc'.center(6) }}| {{ 'a'.ljust(3, '.') }} {{ 'a'.rjust(3, 'é') }} {{ '5'.zfill(3) }} {{ '-5'.zfill(4) }} {{ '+5'.zfill(1) }} {{ 'abcd'.center(3) }}
{{ ('a' * 3000 ~ 'b' ~ 'a' * 50).find('a' * 40 ~ 'b') }} {{ ('a' * 3000 ~ 'b').find('a' * 40 ~ 'c') }} {{ ('ab' * 2000).count('ab' * 9) }} {{ ('a' * 3000 ~ 'b').rfind('b' ~ 'a') }} {{ ('é' * 900 ~ 'e').find('é' * 30 ~ 'e') }}
{{ nums.index(2) }} {{ nums.count(3) }} {{ (1, 2).index(2) }} {{ (1, 1).count(1) }} {{ nums.copy() }} {{ nums.index(3, 1) }} {{ range(5).index(3) }} {{ [1, true, 1.0].count(1) }}
{{ d.keys() | list }} {{ d.values() | list | length }} {{ d.items() | list | first }} {{ d.get('nested').x }} {{ d.get('zz', {}).x }}| {{ d.copy() == d }} {{ d.get(1) }} {{ d.get(none, 'q') }} {{ d.items() | length }} {{ 'a' in d.keys() }} {{ ('a', 2) in d.items() }} {{ 2 in d.values() }} {{ dict(d, z=1).z }}
{{ s.split()[0].lower().startswith('he') }} {{ s.split(' ') | map('length') | list }} {{ s.split('o') | join('0') }} {{ 'x'.upper().lower() }} {{ ' a '.strip().upper() + '!' }}
{{ s.upper }}
{{ s.split('') }}
{{ s.split(1) }}
{{ s.strip(1) }}
{{ s.startswith(1) }}
{{ s.startswith(['H']) }}
{{ s.startswith() }}
{{ s.replace('a') }}
{{ s.replace('a', 1) }}
{{ s.index('zz') }}
{{ ','.join(nums) }}
{{ ','.join(5) }}
{{ '{}'.format() }}
{{ '{x}'.format() }}
{{ '{'.format() }}
{{ '}'.format() }}
{{ '{:d}'.format('a') }}
{{ '{:q}'.format(1) }}
{{ '{} {0}'.format(1) }}
{{ '{:.2}'.format(1) }}
{{ '{0.__class__}'.format(1) }}
{{ nums.index(99) }}
{{ nums.nope() }}
{{ s.nope() }}
{{ s.upper(1) }}
{{ s.center() }}
{{ 'a'.center(5, 'xy') }}
{{ d.get([]) }}
{{ s.partition('') }}
{{ d.keys()[0] }}|
""")
GROUPS["methods"] = [row for row in GROUPS["methods"] if row != "{{ s.upper }}"]  # prints an address
