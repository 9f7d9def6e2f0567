/** Which of several standbys has the port, and when. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { StandbyListen } from '../../../src/cli/standby_listen.js';
import { nodeRuntime } from '../../../src/runtime/node_runtime.js';
import { until } from '../../fixtures/until.js';

/** One port that several may bind. */
class Port {
  owner: string | undefined;
  /** Attempts to bind it while another one had it. */
  refused = 0;

  server(name: string): { listen(): Promise<void>; vacate(): Promise<void> } {
    return {
      listen: async () => {
        if (this.owner !== undefined) {
          this.refused += 1;
          throw new FsError('EBUSY', `${this.owner} has it`);
        }
        this.owner = name;
      },
      vacate: async () => {
        assert.equal(this.owner, name);
        this.owner = undefined;
      },
    };
  }
}

function standby(t: TestContext, port: Port, name: string): StandbyListen {
  const ended = new AbortController();
  t.after(() => ended.abort());
  return new StandbyListen(port.server(name), nodeRuntime().timers, ended.signal);
}

test('a standby binds the port as soon as the holder closes it, and has it when it has the target', async (t) => {
  const port = new Port();
  port.owner = 'holder';
  const one = standby(t, port, 'one');
  await new Promise((resolve) => setImmediate(resolve));
  port.owner = undefined;
  await until('it is bound', () => port.owner === 'one');
  await one.listening();
  assert.equal(port.owner, 'one');
});

test('whoever gets the target gets the port, although another standby bound it first', async (t) => {
  const port = new Port();
  port.owner = 'holder';
  const [quick, slow] = [standby(t, port, 'quick'), standby(t, port, 'slow')];
  await new Promise((resolve) => setImmediate(resolve));
  port.owner = undefined;
  await until('one of them is bound', () => port.owner !== undefined);
  const [taker, other] = port.owner === 'quick' ? [slow, quick] : [quick, slow];
  const name = taker === slow ? 'slow' : 'quick';
  const listens = taker.listening();
  other.holderChanged(false);
  await listens;
  assert.equal(port.owner, name);
  // The other one gets it when this holder is gone, and not before.
  const before = port.refused;
  await until('the other one has tried again', () => port.refused > before + 2);
  assert.equal(port.owner, name);
  port.owner = undefined;
  await until('the other one is bound', () => port.owner !== undefined);
  await other.listening();
});

test('a standby whose port is free does not keep it from a holder that is about to bind it', async (t) => {
  const port = new Port();
  // It starts when the server before is gone, and another standby has the target and not yet the port.
  const late = standby(t, port, 'late');
  const taker = standby(t, port, 'taker');
  await taker.listening();
  assert.equal(port.owner, 'taker');
  late.holderChanged(false);
  const before = port.refused;
  await until('the other one has tried again', () => port.refused > before + 2);
  assert.equal(port.owner, 'taker');
});

for (const [why, say] of [
  ['the holder serves', (one: StandbyListen) => one.holderServes()],
  ['the holder is on another host', (one: StandbyListen) => one.holderChanged(true)],
] as const) {
  test(`a standby keeps a port that is free when ${why}, until it sees another holder`, async (t) => {
    const port = new Port();
    const one = standby(t, port, 'one');
    say(one);
    await until('it is bound', () => port.owner === 'one');
    const other = standby(t, port, 'other');
    await until('the other one has tried', () => port.refused > 2);
    const listens = other.listening();
    assert.equal(port.owner, 'one');
    one.holderChanged(false);
    await listens;
    assert.equal(port.owner, 'other');
  });
}
