import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AssertionFailure } from '../../../src/base/assert.js';
import { ByteBudget } from '../../../src/base/budget.js';
import { FsError } from '../../../src/base/errno.js';
import { isPromise } from '../../../src/base/maybe_promise.js';

/** Takes and notes the name when it is granted. */
function taker(budget: ByteBudget, granted: string[]) {
  return (name: string, bytes: number, signal?: AbortSignal): Promise<void> | undefined => {
    const taken = budget.take(bytes, signal);
    if (isPromise(taken)) return taken.then(() => void granted.push(name));
    granted.push(name);
    return undefined;
  };
}

test('what is there is granted at once, the rest first come, first served', async () => {
  const budget = new ByteBudget('test', 100);
  const granted: string[] = [];
  const take = taker(budget, granted);
  take('a', 60);
  const large = take('large', 70);
  const small = take('small', 10);
  assert.deepEqual([granted, budget.waiting, budget.tryTake(1)], [['a'], 2, false]);
  budget.give(60);
  await Promise.all([large, small]);
  assert.deepEqual([granted, budget.usedBytes, budget.waiting], [['a', 'large', 'small'], 80, 0]);
});

test('more than the whole budget is granted when nothing else is out', async () => {
  const budget = new ByteBudget('test', 10);
  const granted: string[] = [];
  const take = taker(budget, granted);
  take('small', 1);
  const huge = take('huge', 50);
  budget.give(1);
  await huge;
  assert.deepEqual([granted, budget.usedBytes, budget.tryTake(0)], [['small', 'huge'], 50, false]);
  budget.give(50);
  assert.equal(budget.usedBytes, 0);
});

test('an interrupted waiter takes nothing and lets those behind it pass', async () => {
  const budget = new ByteBudget('test', 10);
  const granted: string[] = [];
  const take = taker(budget, granted);
  take('a', 5);
  const aborter = new AbortController();
  const large = take('large', 9, aborter.signal);
  const small = take('small', 5);
  aborter.abort();
  await assert.rejects(
    async () => large,
    (error) => error instanceof FsError && error.code === 'EINTR',
  );
  await small;
  assert.deepEqual([granted, budget.usedBytes], [['a', 'small'], 10]);
  await assert.rejects(async () => budget.take(1, aborter.signal), FsError);
});

test('giving back more than is out is a bug', () => {
  const budget = new ByteBudget('test', 10);
  assert.throws(() => budget.give(1), AssertionFailure);
});
