// Lines in, lines out: LineReader and Journal.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "kernels/check.h"
#include "launcher/journal.h"
#include "launcher/line_reader.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempFolder;

std::vector<std::string> read_lines(const std::filesystem::path& path) {
  std::vector<std::string> lines;
  LineReader reader(path);
  for (std::string_view line; reader.next(line) == LineReader::Status::kLine;) {
    lines.emplace_back(line);
  }
  EXPECT_EQ(reader.line_number(), int64_t(lines.size()));
  return lines;
}

TEST(LineReader, EndsOfLines) {
  const TempFolder folder;
  const auto lines = [&](const std::string& text) { return read_lines(folder.write("f", text)); };
  EXPECT_THAT(lines(""), ElementsAre());
  EXPECT_THAT(lines("\n"), ElementsAre(""));
  EXPECT_THAT(lines("a"), ElementsAre("a"));
  EXPECT_THAT(lines("a\n"), ElementsAre("a"));
  EXPECT_THAT(lines("a\r\n\r\nb"), ElementsAre("a", "", "b"));
  EXPECT_THAT(lines("a\rb\n"), ElementsAre("a\rb"));
  EXPECT_THAT(lines("\xEF\xBB\xBF"
                    "a\n\xEF\xBB\xBF"
                    "b\n"),
              ElementsAre("a",
                          "\xEF\xBB\xBF"
                          "b"));
  EXPECT_THAT(lines(std::string("a\0b\n", 4)), ElementsAre(std::string("a\0b", 3)));
}

TEST(LineReader, LinesOfAnyLength) {
  const TempFolder folder;
  std::string text;
  std::vector<std::string> expected;
  for (const size_t length : {size_t(0), size_t(1), size_t(256 * 1024 - 1), size_t(256 * 1024),
                              size_t(256 * 1024 + 1), size_t(3 << 20), size_t(5)}) {
    expected.push_back(std::string(length, char('a' + length % 26)));
    text += expected.back() + "\n";
  }
  EXPECT_EQ(read_lines(folder.write("f", text)), expected);
  text.pop_back();
  EXPECT_EQ(read_lines(folder.write("f", text)), expected);
}

TEST(LineReader, NamesWhatCannotBeRead) {
  const TempFolder folder;
  EXPECT_THROW(
      {
        try {
          LineReader reader(folder / "missing");
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kResource);
          EXPECT_THAT(error.what(), HasSubstr("missing: cannot open: No such file"));
          throw;
        }
      },
      Error);
  LineReader directory(folder / "");
  std::string_view line;
  EXPECT_THROW(directory.next(line), Error);
}

TEST(LineReader, PipesMayKeepItWaiting) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  LineReader reader("/dev/fd/" + std::to_string(ends[0]));
  std::string_view line;
  EXPECT_EQ(reader.next(line, 0), LineReader::Status::kWait);
  ASSERT_EQ(write(ends[1], "ab", 2), 2);
  EXPECT_EQ(reader.next(line, 0), LineReader::Status::kWait) << "half a line";
  ASSERT_EQ(write(ends[1], "c\nd", 3), 3);
  EXPECT_EQ(reader.next(line, 0), LineReader::Status::kLine);
  EXPECT_EQ(line, "abc");
  EXPECT_EQ(reader.next(line, 0), LineReader::Status::kWait);
  close(ends[1]);
  EXPECT_EQ(reader.next(line, 0), LineReader::Status::kLine);
  EXPECT_EQ(line, "d");
  EXPECT_EQ(reader.next(line, 0), LineReader::Status::kEnd);
  EXPECT_EQ(reader.next(line, 0), LineReader::Status::kEnd);
  close(ends[0]);
}

TEST(CountLines, CountsWhatIsNotBlank) {
  const TempFolder folder;
  EXPECT_EQ(count_lines(folder.write("f", "a\n\n  \r\nb")), 2);
  EXPECT_EQ(count_lines(folder.write("f", "")), 0);
  EXPECT_EQ(count_lines(folder / "missing"), -1);
  EXPECT_EQ(count_lines("/dev/null"), -1);
}

struct Reopened {
  std::vector<std::string> lines;
  int64_t torn = 0;
};

Reopened reopen(const std::filesystem::path& path) {
  Reopened result;
  Journal journal(path, true, [&](std::string_view line, int64_t number) {
    result.lines.emplace_back(line);
    EXPECT_EQ(number, int64_t(result.lines.size()));
  });
  result.torn = journal.torn_bytes();
  return result;
}

void ignore(std::string_view, int64_t) {}

std::string refusal(const std::filesystem::path& path, bool resume, ErrorKind kind) {
  try {
    Journal journal(path, resume, ignore);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  ADD_FAILURE() << "opened";
  return "";
}

TEST(Journal, AppendsWholeLines) {
  const TempFolder folder;
  const auto path = folder / "out";
  {
    Journal journal(path, false, ignore);
    journal.append("one");
    journal.append("");
    journal.append(std::string(1 << 20, 'x'));
    journal.sync(true);
    EXPECT_EQ(journal.lines(), 3);
  }
  EXPECT_EQ(TempFolder::read(path), "one\n\n" + std::string(1 << 20, 'x') + "\n");
  const Reopened again = reopen(path);
  EXPECT_EQ(again.torn, 0);
  EXPECT_THAT(again.lines, ElementsAre("one", "", std::string(1 << 20, 'x')));
}

TEST(Journal, CutsATornLineAndGoesOn) {
  const TempFolder folder;
  const auto path = folder.write("out", "one\ntwo\nthr");
  EXPECT_EQ(reopen(path).torn, 3);
  EXPECT_EQ(TempFolder::read(path), "one\ntwo\n");
  {
    Journal journal(path, true, ignore);
    journal.append("three");
  }
  EXPECT_EQ(TempFolder::read(path), "one\ntwo\nthree\n");
  EXPECT_THAT(reopen(folder.write("torn", "only half")).lines, ElementsAre());
  EXPECT_EQ(TempFolder::read(folder / "torn"), "");
}

TEST(Journal, RefusesAFileThatIsNotEmpty) {
  const TempFolder folder;
  const auto path = folder.write("out", "one\n");
  EXPECT_THAT(refusal(path, false, ErrorKind::kUsage), HasSubstr("--resume"));
  EXPECT_EQ(TempFolder::read(path), "one\n");
  Journal empty(folder.write("empty", ""), false, ignore);
}

TEST(Journal, RefusesASecondWriter) {
  const TempFolder folder;
  const Journal first(folder / "out", false, ignore);
  EXPECT_THAT(refusal(folder / "out", true, ErrorKind::kResource), HasSubstr("another job"));
}

TEST(Journal, NamesAPathThatCannotBeWritten) {
  const TempFolder folder;
  EXPECT_THAT(refusal(folder / "no/such/out", false, ErrorKind::kResource),
              HasSubstr("out: cannot open for writing: No such file"));
  EXPECT_THAT(refusal(folder / "", false, ErrorKind::kResource), HasSubstr("cannot open"));
}

TEST(Journal, AFullDiskIsAnError) {
  Journal journal("/dev/full", false, ignore);
  try {
    journal.append("line");
    FAIL() << "written";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kResource);
    EXPECT_THAT(error.what(), HasSubstr("/dev/full: cannot write: No space left"));
  }
}

TEST(Journal, ALineThatDoesNotFitLeavesNothing) {
  const TempFolder folder;
  const auto path = folder / "out";
  Journal journal(path, false, ignore);
  journal.append("fits");
  // A limit on the size of files stands in for a disk that fills up in the middle of a line.
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{12, old.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(journal.append("does not fit"), Error);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(TempFolder::read(path), "fits\n");
  journal.append("again");
  EXPECT_EQ(TempFolder::read(path), "fits\nagain\n");
}

}  // namespace
}  // namespace convoke
