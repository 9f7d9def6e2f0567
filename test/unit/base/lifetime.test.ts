import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { Lifetime } from '../../../src/base/lifetime.js';
import { Deferred } from '../../../src/base/wait.js';

const EVICTED = new FsError('EIO', 'evicted');
const LOST = new FsError('EBADF', 'lost');

test('lifetime: a wait that outlives it throws why it ended, not what it waited for', async () => {
  const session = new Lifetime();
  const answer = new Deferred<number>();
  const waiting = session.wait(answer.promise);
  session.end(EVICTED);
  answer.resolve(5);
  await assert.rejects(waiting, EVICTED);
  assert.throws(() => session.check(), EVICTED);
});

test('lifetime: it passes values and errors on while it lasts', async () => {
  const session = new Lifetime();
  assert.equal(await session.wait(7), 7);
  await assert.rejects(session.wait(Promise.reject(LOST)), LOST);
  assert.equal(session.isOver, false);
  session.check();
});

test('lifetime: what is within another ends with it; the first reason stays, and the other way round nothing ends', () => {
  const session = new Lifetime();
  const [first, second] = [new Lifetime(session), new Lifetime(session)];
  first.end(LOST);
  assert.deepEqual([first.endedBy, second.endedBy, session.endedBy], [LOST, undefined, undefined]);
  session.end(EVICTED);
  first.end(EVICTED);
  second.end(LOST);
  assert.deepEqual([first.endedBy, second.endedBy, session.endedBy], [LOST, EVICTED, EVICTED]);
});
