import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allEnded, CountDown, Deferred, interruptible, onAbort, WaitList } from '../../../src/base/wait.js';

test('wait list: wakes those that wait, in their order, and not those that come meanwhile', async () => {
  const list = new WaitList();
  const order: string[] = [];
  const waits = ['a', 'b'].map((name) => list.wait().then(() => order.push(name)));
  assert.equal(list.size, 2);
  list.wake();
  const later = list.wait();
  assert.equal(list.size, 1);
  await Promise.all(waits);
  assert.deepEqual(order, ['a', 'b']);
  list.wake();
  await later;
});

test('count down: zero() waits for the last one, and not at all when there is none', async () => {
  const count = new CountDown();
  await count.zero();
  count.add();
  count.add();
  let isZero = false;
  const zero = count.zero().then(() => {
    isZero = true;
  });
  count.done();
  await Promise.resolve();
  assert.deepEqual([count.count, isZero], [1, false]);
  count.done();
  await zero;
  assert.throws(() => count.done(), { name: 'AssertionFailure' });
});

test('onAbort: tells once, not after it was taken away, and takes no signal at all', () => {
  let told = 0;
  const tell = (): void => {
    told += 1;
  };
  const [first, second] = [new AbortController(), new AbortController()];
  onAbort(first.signal, tell);
  const unlisten = onAbort(second.signal, tell);
  unlisten();
  first.abort();
  second.abort();
  onAbort(undefined, tell)();
  assert.equal(told, 1);
});

test('interruptible: the signal ends the wait, and what the promise does later disturbs nobody', async () => {
  const abort = new AbortController();
  const answer = new Deferred<number>();
  const waiting = interruptible(answer.promise, abort.signal);
  abort.abort();
  await assert.rejects(waiting, { code: 'EINTR' });
  answer.reject(new Error('nobody hears this'));
  await assert.rejects(interruptible(Promise.reject(new Error('nor this')), abort.signal), { code: 'EINTR' });
  assert.equal(await interruptible(Promise.resolve(5), new AbortController().signal), 5);
});

test('allEnded: what fails first is told when the last has ended', async () => {
  const [first, second] = [new Deferred<number>(), new Deferred<number>()];
  let isTold = false;
  const told = assert.rejects(allEnded([first.promise, second.promise]), { message: 'first' }).then(() => {
    isTold = true;
  });
  first.reject(new Error('first'));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(isTold, false);
  second.resolve(2);
  await told;
  assert.deepEqual(await allEnded([Promise.resolve(1), Promise.resolve(2)]), [1, 2]);
});
