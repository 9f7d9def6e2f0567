/** Standing in line for a target: what the server of the target believes, and whom it tells. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { StandbyPort, standInLine } from '../../../src/cli/handover.js';
import type { MultiMount, Successor } from '../../../src/storage/ownership/multi_mount.js';
import { until } from '../../fixtures/until.js';

const DATA = '/dev/data';

function successor(pid: number): Successor {
  const nonce = `00000000-0000-4000-8000-${String(pid).padStart(12, '0')}`;
  return { nonce, owner: { host: 'h', pid, system: 's', startedTicks: 1 }, periodMs: 5000 };
}

async function opened(t: TestContext): Promise<{ folder: string; port: StandbyPort }> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-standby-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const port = await StandbyPort.open(folder, DATA);
  assert.ok(port !== undefined);
  t.after(() => port.close());
  return { folder, port };
}

function says(t: TestContext, folder: string, text: string): { socket: Socket; ended: () => boolean } {
  const socket = createConnection(join(folder, 'standby'));
  let isOver = false;
  socket.on('error', () => undefined);
  socket.on('close', () => {
    isOver = true;
  });
  socket.write(text);
  t.after(() => socket.destroy());
  return { socket, ended: () => isOver };
}

/** A standby's side, without a block. */
function standby(
  t: TestContext,
  folder: string,
  pid: number,
): { told: () => number; accepted: () => number; leave: () => void } {
  let told = 0;
  let accepted = 0;
  const leaving = new AbortController();
  const block = { successor: successor(pid), given: () => (told += 1) } as unknown as MultiMount;
  standInLine(folder, DATA, block, {
    accepted: () => {
      accepted += 1;
    },
    signal: leaving.signal,
  });
  t.after(() => leaving.abort());
  return { told: () => told, accepted: () => accepted, leave: () => leaving.abort() };
}

for (const [what, text] of [
  ['no JSON', 'hello\n'],
  ['null', 'null\n'],
  ['another data device', `${JSON.stringify({ dataPath: '/dev/other', successor: successor(1) })}\n`],
  ['no nonce', `${JSON.stringify({ dataPath: DATA, successor: { ...successor(1), nonce: '../..' } })}\n`],
  ['no process', `${JSON.stringify({ dataPath: DATA, successor: { ...successor(1), owner: {} } })}\n`],
  ['no end of a line', 'x'.repeat(9000)],
] as const) {
  test(`who says ${what} does not stand in line`, async (t) => {
    const { folder, port } = await opened(t);
    const { ended } = says(t, folder, text);
    await until('the connection ends', ended);
    assert.equal(port.successor, undefined);
  });
}

test('the first in line is told, and only it; who leaves the line is forgotten', async (t) => {
  const { folder, port } = await opened(t);
  const first = standby(t, folder, 1);
  await until('the first stands in line', () => port.successor?.owner.pid === 1);
  const second = standby(t, folder, 2);
  const third = standby(t, folder, 3);
  first.leave();
  await until('another is first', () => port.successor !== undefined && port.successor.owner.pid !== 1);
  const next = port.successor;
  await port.close(next);
  const [named, other] = next?.owner.pid === 2 ? [second, third] : [third, second];
  await until('it is told', () => named.told() === 1);
  assert.deepEqual([first.told(), other.told()], [0, 0]);
});

test('a standby that stands still does not keep the server from ending', async (t) => {
  const { folder, port } = await opened(t);
  const socket = createConnection({ path: join(folder, 'standby'), allowHalfOpen: true });
  t.after(() => socket.destroy());
  socket.write(`${JSON.stringify({ dataPath: DATA, successor: successor(1) })}\n`);
  await until('it stands in line', () => port.successor !== undefined);
  await port.close(port.successor);
});

test('a standby finds the server that begins to listen later', async (t) => {
  const { folder, port } = await opened(t);
  await port.close();
  const one = standby(t, folder, 7);
  assert.equal(one.accepted(), 0);
  const later = await StandbyPort.open(folder, DATA);
  t.after(() => later?.close());
  await until('it stands in line', () => later?.successor?.owner.pid === 7);
  assert.equal(one.accepted(), 1);
});
