import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteBudget } from '../../../src/base/budget.js';
import { PartyBudgets } from '../../../src/rpc/party_budgets.js';
import { PATIENCE_MS, ReceiveRoom } from '../../../src/rpc/receive_room.js';
import { ManualTime } from '../../worlds/dlm_world.js';

const A = { party: 'a', partyBytes: undefined };
const B = { party: 'b', partyBytes: undefined };

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function taken(budgets: PartyBudgets, ...args: Parameters<PartyBudgets['take']>) {
  const result: { give: (() => void) | undefined; error: unknown } = { give: undefined, error: undefined };
  const later = budgets.take(...args);
  if (later instanceof Promise) {
    later.then(
      (give) => {
        result.give = give;
      },
      (error: unknown) => {
        result.error = error;
      },
    );
  } else {
    result.give = later;
  }
  return result;
}

test('a party takes half of it, the others find the rest, and who waits is served in order', async () => {
  const budgets = new PartyBudgets(new ByteBudget('room', 1000));
  const first = taken(budgets, A, 500);
  const [more, last] = [taken(budgets, A, 100), taken(budgets, A, 50)];
  const other = taken(budgets, B, 500);
  await turn();
  assert.deepEqual(
    [more.give, last.give, typeof other.give, budgets.waiting],
    [undefined, undefined, 'function', 2],
  );
  assert.deepEqual([budgets.isWantedFrom(A), budgets.isWantedFrom(B)], [true, false]);
  first.give?.();
  await turn();
  assert.deepEqual([typeof more.give, typeof last.give], ['function', 'function']);
  for (const { give } of [more, last, other]) give?.();
  assert.deepEqual([budgets.shared.usedBytes, budgets.waiting], [0, 0]);
});

test('a limit of its own is below that; a frame that is larger than all of it comes alone', async () => {
  const budgets = new PartyBudgets(new ByteBudget('room', 1000));
  const small = { party: 'small', partyBytes: 100 };
  const large = taken(budgets, small, 300);
  const next = taken(budgets, small, 10);
  await turn();
  assert.deepEqual([typeof large.give, next.give], ['function', undefined]);
  large.give?.();
  await turn();
  assert.equal(typeof next.give, 'function');
});

test('who is gone while it waits for the shared room has taken nothing', async () => {
  const budgets = new PartyBudgets(new ByteBudget('room', 1000));
  const full = [taken(budgets, A, 500), taken(budgets, B, 500)];
  const gone = new AbortController();
  const third = taken(budgets, { party: 'c', partyBytes: undefined }, 400, gone.signal);
  gone.abort();
  await turn();
  assert.equal((third.error as { code: string }).code, 'EINTR');
  for (const { give } of full) give?.();
  assert.equal(budgets.shared.usedBytes, 0);
});

test('a slow sender is closed when others of its party wait for what it has, not for those of another party', async () => {
  const time = new ManualTime();
  const room = new ReceiveRoom(time, 1000);
  const closed: string[] = [];
  const receiver = (name: string, party: string) => ({
    party,
    partyBytes: undefined,
    tooSlow() {
      closed.push(name);
      room.give(this);
    },
  });
  const { signal } = new AbortController();
  const [slowA, slowB, waits] = [receiver('slow a', 'a'), receiver('slow b', 'b'), receiver('waits', 'a')];
  room.take(slowA, 450, signal);
  room.take(slowB, 450, signal);
  const later = room.take(waits, 100, signal);
  time.advance(PATIENCE_MS + 1);
  await later;
  assert.deepEqual(closed, ['slow a']);
});
