/** What a user learns without DEBUG (src/base/notices.ts): the lines, their limit, and each kind where it arises. */

import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { type Level, type NoticeKind, Notices, notice } from '../../../src/base/notices.js';
import { clientWorld, O_RDWR } from '../../worlds/client_world.js';

function recorded(options: { readonly level?: Level; readonly journal?: boolean } = {}) {
  const lines: string[] = [];
  const clock = { ms: 0 };
  const notices = new Notices({
    nowMs: () => clock.ms,
    time: () => 'TIME',
    write: (line) => void lines.push(line),
    level: options.level ?? 'info',
    journal: options.journal ?? false,
  });
  return { lines, clock, notices };
}

test('a notice is one line with a time, or with a priority for a journal', () => {
  const plain = recorded();
  plain.notices.say('connection-lost', 'first\nsecond');
  const journal = recorded({ journal: true });
  journal.notices.say('connection-lost', 'a');
  journal.notices.say('evicted', 'b');
  journal.notices.say('back', 'c');
  assert.deepEqual(
    [plain.lines, journal.lines],
    [['TIME holdfast: first second\n'], ['<4>holdfast: a\n', '<3>holdfast: b\n', '<6>holdfast: c\n']],
  );
});

test('no text of others moves the cursor or begins a line', () => {
  const { lines, notices } = recorded();
  notices.say(
    'evicted',
    'client \x1b]0;pwn\x07\x1b[31m\x9b31m a\u202eb\u2028c\r\nTIME holdfast: d \u00e4\u{1f600} is evicted',
  );
  assert.deepEqual(lines, [
    'TIME holdfast: client \ufffd]0;pwn\ufffd\ufffd[31m\ufffd31m a\ufffdb\ufffdc  TIME holdfast: d \u00e4\u{1f600} is evicted\n',
  ]);
});

test('a kind that repeats is limited, counted in full, and does not silence another kind', () => {
  const { lines, clock, notices } = recorded();
  for (let index = 0; index < 100; index++) notices.say('checksum-wrong', `block ${index}`);
  notices.say('evicted', 'client a');
  clock.ms = 10_000;
  notices.say('checksum-wrong', 'block 100');
  assert.deepEqual(
    [lines.length, lines[5], lines[6], notices.counts()],
    [
      7,
      'TIME holdfast: client a\n',
      'TIME holdfast: block 100 (95 more of this kind were not shown)\n',
      [
        { kind: 'checksum-wrong', count: 101 },
        { kind: 'evicted', count: 1 },
      ],
    ],
  );
});

test('--log-level leaves out what is less important, and counts it', () => {
  const { lines, notices } = recorded({ level: 'error' });
  notices.say('back', 'a');
  notices.say('connection-lost', 'b');
  notices.say('evicted', 'c');
  notices.state('active');
  assert.deepEqual([lines, notices.count('back')], [['TIME holdfast: c\n'], 1]);
});

test('what storage and devices tell goes where the process says, until that ends', () => {
  const { lines, notices } = recorded();
  const end = notices.use();
  notice('device-failed', 'write of /dev/x at 4096 failed: EIO');
  end();
  notice('device-failed', 'nobody hears this');
  assert.deepEqual(lines, ['TIME holdfast: write of /dev/x at 4096 failed: EIO\n']);
});

/** Kinds that a client and its server tell. */
async function listening(t: TestContext) {
  const world = await clientWorld(t);
  const told: (NoticeKind | undefined)[] = [];
  const texts: string[] = [];
  const client = await world.client('a', {
    onState: (text, kind) => {
      if (kind === undefined) return;
      told.push(kind);
      texts.push(text);
    },
  });
  return { world, client, told, texts };
}

test('a client tells that its connection is lost, and when the server is back', async (t) => {
  const { client, told, texts } = await listening(t);
  await client.create('f', O_RDWR);
  client.breakConnection();
  await client.time.until('the server is back', () => told.includes('back'));
  assert.match(texts.at(-1) ?? '', /is back after \d+\.\d s$/);
  assert.deepEqual(told, ['connection-lost', 'back']);
});

test('a client tells that it has drained and waits, and when the next server is there', async (t) => {
  const { world, client, told } = await listening(t);
  await client.create('f', O_RDWR);
  await world.upgrade('2.0.0');
  await world.time.until('the server is back', () => told.includes('back'));
  assert.deepEqual(told, ['drained', 'back']);
});
