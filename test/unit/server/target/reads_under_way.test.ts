import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ALONE_BYTES, ReadsUnderWay, SHARED_BYTES } from '../../../../src/server/target/reads_under_way.js';

const MIB = 1 << 20;

function world() {
  let nowMs = 0;
  const reads = new ReadsUnderWay({ nowMs: () => nowMs });
  const reader = () => {
    const ends: (() => void)[] = [];
    const link = {
      paused: 0,
      pause: () => {
        link.paused += 1;
      },
      resume: () => {
        link.paused -= 1;
      },
    };
    return {
      link,
      read: () => reads.during(link, MIB, () => new Promise<void>((resolve) => ends.push(resolve))),
      /** The oldest is done. */
      end: async () => {
        ends.shift()?.();
        await new Promise((resolve) => setImmediate(resolve));
      },
    };
  };
  return {
    reads,
    reader,
    pass: (ms: number) => {
      nowMs += ms;
    },
  };
}

test('a connection that reads alone has many READs under way, and is not read beyond that', async () => {
  const { reads, reader } = world();
  const one = reader();
  const most = ALONE_BYTES / MIB;
  for (let at = 0; at < most; at += 1) void one.read();
  assert.equal(one.link.paused, 0);
  void one.read();
  assert.deepEqual([one.link.paused, reads.bytes], [1, ALONE_BYTES + MIB]);
  for (let at = 0; at <= most / 2; at += 1) await one.end();
  assert.equal(one.link.paused, 0);
  for (let at = 0; at < most / 2; at += 1) await one.end();
  assert.equal(reads.bytes, 0);
});

test('a connection that reads beside others has few under way, and many again when it is alone', async () => {
  const { reader, pass } = world();
  const [one, other] = [reader(), reader()];
  void other.read();
  for (let at = 0; at <= SHARED_BYTES / MIB; at += 1) void one.read();
  assert.deepEqual([one.link.paused, other.link.paused], [1, 0]);
  await one.end();
  await one.end();
  assert.equal(one.link.paused, 0);
  pass(1000);
  for (let at = 0; at < 8; at += 1) void one.read();
  assert.equal(one.link.paused, 0);
});

test('what is there without waiting for the device is not counted', () => {
  const { reads, reader } = world();
  const { link } = reader();
  assert.equal(
    reads.during(link, 2 * ALONE_BYTES, () => 7),
    7,
  );
  assert.deepEqual([link.paused, reads.bytes], [0, 0]);
});
