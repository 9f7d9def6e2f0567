import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fh, Fid, LockHandle } from '../../../../src/base/ids.js';
import { Gate } from '../../../../src/client/session/gate.js';
import { Outgoing } from '../../../../src/client/session/outgoing.js';
import type { Answer } from '../../../../src/rpc/api.js';
import { Getattr } from '../../../../src/wire/meta.js';
import type { Operation } from '../../../../src/wire/operation.js';
import { ManualTime } from '../../../worlds/dlm_world.js';

/** Says what left, and answers nothing. */
function outgoing() {
  const sent: string[] = [];
  const requester = {
    inFlight: 0,
    call<Q, R>({ name }: Operation<Q, R>, request: Q): Promise<Answer<R>> {
      const { fhs, released, handles } = request as Record<string, readonly number[] | undefined>;
      const what = [fhs && `fhs ${fhs}`, released && `released ${released}`, handles && `handles ${handles}`];
      sent.push([name, ...what.filter((part) => part !== undefined)].join(' '));
      return new Promise(() => undefined);
    },
  };
  const time = new ManualTime();
  const gate = new Gate(time);
  gate.setConnected(true);
  return { sent, time, gate, out: new Outgoing(requester, gate, time, () => undefined) };
}

const fid = (value: number): Fid => value as Fid;
const fh = (value: number): Fh => value as Fh;

test('ends collect for a moment, and leave together in the order in which they were made', () => {
  const { sent, time, out } = outgoing();
  out.close(fh(1));
  out.release(fid(7));
  out.close(fh(2));
  out.checkInvariants();
  assert.deepEqual(sent, []);
  time.advance(5);
  out.checkInvariants();
  assert.deepEqual(sent, ['CLOSE fhs 1,2 released 7']);
});

test('an end that is a call of its own leaves at once, behind the ends before it', () => {
  const { sent, time, out } = outgoing();
  out.close(fh(1));
  out.whenOpen(() => sent.push('own'));
  assert.deepEqual(sent, ['CLOSE fhs 1', 'own']);
  out.close(fh(2));
  time.advance(5);
  assert.deepEqual(sent, ['CLOSE fhs 1', 'own', 'CLOSE fhs 2']);
});

test('a call does not wait for ends', () => {
  const { sent, out } = outgoing();
  out.close(fh(1));
  out.call('operation', Getattr, { fid: fid(1), want: 0 });
  assert.deepEqual([sent, out.inFlight('operation')], [['GETATTR'], 1]);
});

test('at a closed gate ends wait, in their order, until it opens', () => {
  const { sent, time, gate, out } = outgoing();
  gate.setConnected(false);
  out.close(fh(1));
  out.whenOpen(() => sent.push('own'));
  out.close(fh(2));
  time.advance(1000);
  out.checkInvariants();
  assert.deepEqual(sent, []);
  gate.setConnected(true);
  assert.throws(() => out.checkInvariants(), /nothing sends them/);
  out.sendEnds();
  out.checkInvariants();
  assert.deepEqual(sent, ['CLOSE fhs 1', 'own', 'CLOSE fhs 2']);
});

test('ends that are void are never sent, and later ones are', () => {
  const { sent, time, gate, out } = outgoing();
  gate.setConnected(false);
  out.close(fh(1));
  out.whenOpen(() => sent.push('own'));
  out.voidEnds();
  out.release(fid(7));
  gate.setConnected(true);
  time.advance(5);
  assert.deepEqual(sent, ['CLOSE fhs  released 7']);
});

test('an end that is made while ends are sent leaves after them', () => {
  const { sent, time, out } = outgoing();
  out.whenOpen(() => {
    sent.push('first');
    out.close(fh(1));
    out.whenOpen(() => sent.push('second'));
  });
  time.advance(5);
  assert.deepEqual(sent, ['first', 'CLOSE fhs 1', 'second']);
});

test('many ends do not wait, and no message has more than 10,000 handles', () => {
  const { sent, gate, out } = outgoing();
  for (let each = 0; each < 512; each++) out.close(fh(each));
  assert.equal(sent.length, 1);
  gate.setConnected(false);
  for (let each = 0; each < 20_001; each++) out.close(fh(each));
  gate.setConnected(true);
  out.sendEnds();
  assert.deepEqual(
    sent.map((each) => each.split(',').length),
    [512, 10_000, 10_000, 1],
  );
  out.cancel(Array.from({ length: 10_001 }, (_, each) => each as LockHandle));
  assert.deepEqual(
    sent.slice(4).map((each) => each.split(',').length),
    [10_000, 1],
  );
});
