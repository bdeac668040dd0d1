#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>
#include <thread>

#include "actors/local_transport.h"
#include "actors/zmq_transport.h"
#include "kernels/check.h"
#include "tests/actors/random_messages.h"

namespace convoke {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Clock::time_point in(Clock::duration duration) {
  return Clock::now() + duration;
}

uint64_t count_of(const std::optional<Letter>& letter) {
  return letter ? std::get<Heartbeat>(letter->message).count : ~uint64_t{0};
}

Heartbeat beat(uint64_t count) {
  return {1, "host", "role", count};
}

/// The contract of mailbox.h, over every transport.
class Transport : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "local") {
      mailbox_ = local_.make_mailbox("box");
    } else {
      mailbox_ = make_zmq_mailbox({GetParam()});
    }
  }
  std::unique_ptr<Link> link() {
    if (GetParam() == "local") return local_.make_link("box");
    return make_zmq_link(mailbox_->endpoints().front());
  }
  bool local() const { return GetParam() == "local"; }

  LocalNetwork local_;
  std::unique_ptr<Mailbox> mailbox_;
};

std::string scheme(const testing::TestParamInfo<std::string>& info) {
  return info.param.substr(0, info.param.find(':'));
}

INSTANTIATE_TEST_SUITE_P(All, Transport,
                         testing::Values("local", "inproc://transport-test", "ipc://*",
                                         "tcp://127.0.0.1:*"),
                         scheme);

/// Those that notice when the other side ends; inside a process nobody ends alone.
class WatchedTransport : public Transport {};

INSTANTIATE_TEST_SUITE_P(All, WatchedTransport,
                         testing::Values("local", "ipc://*", "tcp://127.0.0.1:*"), scheme);

TEST_P(Transport, CarriesEveryMessageBothWaysInOrder) {
  auto peer = link();
  RandomMessages random(1);
  std::vector<Message> sent;
  for (size_t kind = 0; kind < std::variant_size_v<Message>; ++kind) {
    for (int i = 0; i < 5; ++i) sent.push_back(random.make(kind));
  }
  for (const Message& message : sent) ASSERT_TRUE(peer->send(message));
  PeerId from;
  for (const Message& message : sent) {
    const auto letter = mailbox_->receive(in(seconds(10)));
    ASSERT_TRUE(letter);
    EXPECT_TRUE(same(message, letter->message));
    EXPECT_TRUE(letter->attachment.empty());
    from = letter->from;
  }
  EXPECT_FALSE(from.empty());
  for (const Message& message : sent) ASSERT_TRUE(mailbox_->send(from, message));
  for (const Message& message : sent) {
    const auto letter = peer->receive(in(seconds(10)));
    ASSERT_TRUE(letter);
    EXPECT_TRUE(same(message, letter->message));
    EXPECT_TRUE(letter->from.empty());
  }
  EXPECT_TRUE(peer->connected());
  EXPECT_EQ(mailbox_->dropped() + peer->dropped(), 0u);
}

TEST_P(Transport, AttachmentsTravelAsTheyAre) {
  auto peer = link();
  for (size_t size : {size_t{1}, size_t{7}, size_t{3} << 20}) {
    std::vector<std::byte> raw(size);
    for (size_t i = 0; i < size; ++i) raw[i] = std::byte(i * 31);
    ASSERT_TRUE(peer->send(beat(size), raw));
    const auto letter = mailbox_->receive(in(seconds(10)));
    ASSERT_TRUE(letter);
    EXPECT_EQ(letter->attachment, raw);
    ASSERT_TRUE(mailbox_->send(letter->from, beat(size), raw));
    const auto back = peer->receive(in(seconds(10)));
    ASSERT_TRUE(back);
    EXPECT_EQ(back->attachment, raw);
  }
}

TEST_P(Transport, TellsPeersApart) {
  auto a = link(), b = link();
  ASSERT_TRUE(a->send(beat(1)));
  ASSERT_TRUE(b->send(beat(2)));
  std::map<uint64_t, PeerId> from;
  for (int i = 0; i < 2; ++i) {
    const auto letter = mailbox_->receive(in(seconds(10)));
    ASSERT_TRUE(letter);
    from[count_of(letter)] = letter->from;
  }
  EXPECT_NE(from[1], from[2]);
  ASSERT_TRUE(mailbox_->send(from[2], beat(22)));
  ASSERT_TRUE(mailbox_->send(from[1], beat(11)));
  EXPECT_EQ(count_of(a->receive(in(seconds(10)))), 11u);
  EXPECT_EQ(count_of(b->receive(in(seconds(10)))), 22u);
}

TEST_P(Transport, UnknownPeersAreNotSentTo) {
  EXPECT_FALSE(mailbox_->send("nobody", beat(1)));
  EXPECT_FALSE(mailbox_->send("", beat(1)));
}

TEST_P(Transport, ReceivingEndsAtTheDeadline) {
  auto peer = link();
  const auto start = Clock::now();
  EXPECT_FALSE(mailbox_->receive(start - seconds(1)));
  EXPECT_FALSE(mailbox_->receive(start + milliseconds(30)));
  EXPECT_GE(Clock::now(), start + milliseconds(30));
  EXPECT_FALSE(peer->receive(in(std::chrono::microseconds(200))));
}

TEST_P(Transport, MalformedMessagesAreDroppedAndCounted) {
  auto peer = link();
  const std::vector<std::byte> garbage(100, std::byte{0x5A});
  ASSERT_TRUE(peer->send_raw(garbage));
  ASSERT_TRUE(peer->send_raw({}));
  ASSERT_TRUE(peer->send(beat(7)));
  EXPECT_EQ(count_of(mailbox_->receive(in(seconds(10)))), 7u);
  EXPECT_EQ(mailbox_->dropped(), 2u);
}

TEST_P(Transport, APeerThatLeftIsNoLongerSentTo) {
  auto peer = link();
  ASSERT_TRUE(peer->send(beat(1)));
  const auto letter = mailbox_->receive(in(seconds(10)));
  ASSERT_TRUE(letter);
  peer.reset();
  bool unreachable = false;
  const auto deadline = in(seconds(10));
  while (!unreachable && Clock::now() < deadline) {
    unreachable = !mailbox_->send(letter->from, beat(2));
    (void)mailbox_->receive(in(milliseconds(1)));
  }
  EXPECT_TRUE(unreachable);
}

TEST_P(WatchedTransport, APeerThatLeftIsReportedOnce) {
  auto peer = link(), other = link();
  ASSERT_TRUE(peer->send(beat(1)));
  const auto letter = mailbox_->receive(in(seconds(10)));
  ASSERT_TRUE(letter);
  ASSERT_TRUE(other->send(beat(2)));
  ASSERT_TRUE(mailbox_->receive(in(seconds(10))));
  EXPECT_TRUE(mailbox_->departed().empty());
  peer.reset();
  std::vector<PeerId> departed;
  const auto deadline = in(seconds(10));
  while (departed.empty() && Clock::now() < deadline) departed = mailbox_->departed();
  EXPECT_EQ(departed, std::vector<PeerId>{letter->from});
  EXPECT_TRUE(mailbox_->departed().empty());
}

TEST_P(WatchedTransport, ALinkKnowsWhenItsMailboxIsGone) {
  auto peer = link();
  ASSERT_TRUE(peer->send(beat(1)));
  ASSERT_TRUE(mailbox_->receive(in(seconds(10))));
  EXPECT_TRUE(peer->connected());
  mailbox_.reset();
  const auto deadline = in(seconds(10));
  while (peer->connected() && Clock::now() < deadline) (void)peer->receive(in(milliseconds(1)));
  EXPECT_FALSE(peer->connected());
}

TEST_P(Transport, ManyPeersWriteAtOnce) {
  constexpr int kPeers = 4, kEach = 200;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<Link>> links;
  for (int p = 0; p < kPeers; ++p) links.push_back(link());
  for (int p = 0; p < kPeers; ++p) {
    threads.emplace_back([&, p] {
      for (int i = 0; i < kEach; ++i) EXPECT_TRUE(links[p]->send(beat(uint64_t(p) << 32 | i)));
    });
  }
  std::map<PeerId, uint64_t> next;
  for (int i = 0; i < kPeers * kEach; ++i) {
    const auto letter = mailbox_->receive(in(seconds(20)));
    ASSERT_TRUE(letter);
    EXPECT_EQ(count_of(letter) & 0xffffffff, next[letter->from]++);
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(next.size(), size_t(kPeers));
}

TEST(ZmqTransport, SocketFilesLieInAPrivateDirectoryThatGoesAway) {
  std::filesystem::path file;
  {
    const auto mailbox = make_zmq_mailbox({"ipc://*", "tcp://127.0.0.1:*", "inproc://both"});
    const auto endpoints = mailbox->endpoints();
    ASSERT_EQ(endpoints.size(), 3u);
    file = endpoints[0].substr(std::string("ipc://").size());
    struct stat status {};
    ASSERT_EQ(::stat(file.parent_path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0700u);
    EXPECT_NE(endpoints[1], "tcp://127.0.0.1:*");
    for (const std::string& endpoint : endpoints) {
      const auto link = make_zmq_link(endpoint);
      ASSERT_TRUE(link->send(beat(3)));
      EXPECT_EQ(count_of(mailbox->receive(in(seconds(10)))), 3u) << endpoint;
    }
  }
  EXPECT_FALSE(std::filesystem::exists(file.parent_path()));
}

/// A port is given back some time after its socket was closed.
std::unique_ptr<Mailbox> bind_again(const std::string& endpoint) {
  for (const auto deadline = in(seconds(20));;) {
    try {
      return make_zmq_mailbox({endpoint});
    } catch (const Error&) {
      if (Clock::now() > deadline) throw;
      std::this_thread::sleep_for(milliseconds(5));
    }
  }
}

TEST(ZmqTransport, ALinkMayComeBeforeItsMailboxAndFindsItAgain) {
  std::string endpoint;
  {
    const auto first = make_zmq_mailbox({"tcp://127.0.0.1:*"});
    endpoint = first->endpoints().front();
  }
  const auto link = make_zmq_link(endpoint);
  EXPECT_FALSE(link->connected());
  for (int round = 0; round < 2; ++round) {
    const auto mailbox = bind_again(endpoint);
    std::optional<Letter> letter;
    const auto deadline = in(seconds(20));
    while (!letter && Clock::now() < deadline) {
      link->send(beat(uint64_t(round)));
      letter = mailbox->receive(in(milliseconds(20)));
    }
    ASSERT_TRUE(letter) << round;
    EXPECT_TRUE(link->connected());
    EXPECT_TRUE(mailbox->send(letter->from, beat(9)));
    EXPECT_EQ(count_of(link->receive(in(seconds(10)))), 9u);
  }
}

TEST(ZmqTransport, AFullQueueMakesSendFail) {
  ZmqOptions options;
  options.high_water = 10;
  options.linger = milliseconds(0);
  const auto mailbox = make_zmq_mailbox({"inproc://full"}, options);
  const auto link = make_zmq_link("inproc://full", options);
  const auto start = Clock::now();
  int taken = 0;
  while (taken < 1000 && link->send(beat(uint64_t(taken)))) ++taken;
  EXPECT_LT(taken, 1000);
  EXPECT_LT(Clock::now() - start, seconds(5));
  for (int i = 0; i < taken; ++i) {
    EXPECT_EQ(count_of(mailbox->receive(in(seconds(10)))), uint64_t(i));
  }
}

TEST(ZmqTransport, BadEndpointsAreNamed) {
  const auto message = [](auto make) -> std::string {
    try {
      make();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message([] { make_zmq_mailbox({"udp://x"}); }).find("udp://x"), std::string::npos);
  EXPECT_NE(message([] { make_zmq_link("nonsense"); }).find("nonsense"), std::string::npos);
  EXPECT_NE(message([] { make_zmq_mailbox({"tcp://127.0.0.1:bad"}); }).find("127.0.0.1:bad"),
            std::string::npos);
  const auto first = make_zmq_mailbox({"inproc://taken"});
  EXPECT_NE(message([] { make_zmq_mailbox({"inproc://taken"}); }).find("taken"), std::string::npos);
}

TEST(LocalTransport, FaultsHitTheMessagesTheyName) {
  using Kind = LocalFault::Kind;
  LocalNetwork network;
  const auto mailbox = network.make_mailbox("box");
  const auto link = network.make_link("box", {{Kind::kDrop, 1},
                                              {Kind::kDuplicate, 2},
                                              {Kind::kDelay, 3, 2},
                                              {Kind::kCorrupt, 6, 4},
                                              {Kind::kTruncate, 7, 1000},
                                              {Kind::kDelay, 8, 1}});
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(link->send(beat(i)));
  std::vector<uint64_t> seen;
  while (const auto letter = mailbox->receive(Clock::now())) {
    EXPECT_EQ(letter->from, "link-0");
    seen.push_back(count_of(letter));
  }
  EXPECT_EQ(seen, (std::vector<uint64_t>{0, 2, 2, 4, 5, 3, 9, 8}));
  EXPECT_EQ(mailbox->dropped(), 2u);
}

TEST(LocalTransport, DirectionsHaveFaultsOfTheirOwn) {
  LocalNetwork network;
  const auto mailbox = network.make_mailbox("box");
  const auto link = network.make_link("box", {}, {{LocalFault::Kind::kDrop, 0}});
  ASSERT_TRUE(link->send(beat(0)));
  EXPECT_EQ(count_of(mailbox->receive(Clock::now())), 0u);
  ASSERT_TRUE(mailbox->send("link-0", beat(1)));
  ASSERT_TRUE(mailbox->send("link-0", beat(2)));
  EXPECT_EQ(count_of(link->receive(Clock::now())), 2u);
}

}  // namespace
}  // namespace convoke
