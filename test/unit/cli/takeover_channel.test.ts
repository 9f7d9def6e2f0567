import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { test } from 'node:test';
import { TakeoverChannel } from '../../../src/cli/takeover_channel.js';

/** Two ends of a socket that splits what is written into pieces of this size. */
function pair(pieceBytes: number): { one: TakeoverChannel; other: TakeoverChannel; cut(): void } {
  const ends: Duplex[] = [0, 1].map(
    (index) =>
      new Duplex({
        read: () => undefined,
        write: (chunk: Buffer, _encoding, done) => {
          for (let at = 0; at < chunk.length; at += pieceBytes) {
            ends[1 - index]?.push(chunk.subarray(at, at + pieceBytes));
          }
          done();
        },
      }),
  );
  const [one, other] = ends.map((end) => new TakeoverChannel(end as Socket)) as [
    TakeoverChannel,
    TakeoverChannel,
  ];
  const cut = (): void => {
    for (const end of ends) end.destroy();
  };
  return { one, other, cut };
}

const HELLO = { word: 'hello', pid: 5, version: '1', stateVersions: [1] } as const;

for (const pieceBytes of [1, 3, 1000]) {
  test(`words arrive whole, in pieces of ${pieceBytes} bytes`, async () => {
    const { one, other } = pair(pieceBytes);
    one.say(HELLO);
    one.say({ word: 'ready' });
    other.say({ word: 'state', stateVersion: 1, logPath: '/log' });
    assert.deepEqual(await other.hear('hello'), HELLO);
    assert.deepEqual(await other.hear('ready'), { word: 'ready' });
    assert.deepEqual(await one.hear('state'), { word: 'state', stateVersion: 1, logPath: '/log' });
  });
}

test('another word than the expected one, a reason, and the end of the other process are errors', async () => {
  const { one, other, cut } = pair(1000);
  one.say({ word: 'ready' });
  await assert.rejects(other.hear('hello'), { code: 'EPROTO', message: /says ready, not hello/ });
  one.say({ word: 'failed', why: 'it has no key' });
  await assert.rejects(other.hear('ready'), { code: 'EIO', message: 'it has no key' });
  const waits = other.hear('ready');
  cut();
  await assert.rejects(waits, { code: 'ENOTCONN' });
  await assert.rejects(other.hear('go'), { code: 'ENOTCONN' });
});

test('what was said before the end is heard', async () => {
  const { one, other, cut } = pair(1000);
  one.say({ word: 'inCharge' });
  await new Promise((resolve) => setImmediate(resolve));
  cut();
  assert.deepEqual(await other.hear('inCharge'), { word: 'inCharge' });
});
