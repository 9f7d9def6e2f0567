import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type ImportEffect,
  type ImportEvent,
  type ImportState,
  INITIAL,
  MAX_RETRY_MS,
  patienceMs,
  retryMs,
  step,
  TAKEN_OVER,
} from '../../../../src/client/session/import_state.js';
import { storiesOf } from '../../../fixtures/script.js';

/** Everything that may happen between the start and the end, in any order. */
const MIDDLE = [
  'retryDue',
  'connectFailed',
  'connected',
  'connectionLost',
  'replayed',
  'opensReplayed',
  'locksReplayed',
  'recovered',
  'activeGranted',
  'drained',
  'evictedNotice',
  'dropped',
  'suspend',
] as const;
const EVENT_TYPES: ReadonlySet<string> = new Set<ImportEvent['type']>(['start', ...MIDDLE, 'stop']);

/** Runs events from the start. @returns the last state's name, and the effects of the last event by name. */
function run(...events: ImportEvent[]): { state: ImportState; effects: string[] } {
  let state: ImportState = INITIAL;
  let effects: string[] = [];
  for (const event of events) {
    const next = step(state, event);
    state = next.state;
    effects = next.effects.map((effect) => effect.do);
  }
  return { state, effects };
}

const start: ImportEvent = { type: 'start' };
const connected = (
  epoch: number,
  outcome: 'new' | 'resumed' | 'recover' | 'evicted' | 'wait',
): ImportEvent => ({
  type: 'connected',
  epoch,
  outcome,
  reason: 'because',
});
const lost = (epoch: number): ImportEvent => ({ type: 'connectionLost', epoch });
const retry = (epoch: number): ImportEvent => ({ type: 'retryDue', epoch });
const granted = (epoch: number): ImportEvent => ({ type: 'activeGranted', epoch });
/** A client that holds the active lock, in epoch 1. */
const FULL = [start, connected(1, 'new'), granted(1)];
/** It lost its connection and is connecting again, in epoch 2. */
const AGAIN = [...FULL, lost(1), retry(1)];

function stateText(state: ImportState): string {
  const { name, epoch } = state;
  if (name === 'EVICTED') return `${name} epoch ${epoch}: ${state.reason}`;
  if (name !== 'DISCON' && name !== 'CONNECTING') return `${name} epoch ${epoch}`;
  const attempt = state.attempt > 0 ? `, attempt ${state.attempt}` : '';
  return `${name} epoch ${epoch}${attempt}, standing ${state.standing}`;
}

/** The state's epoch is that of the effects. */
function effectText(effect: ImportEffect, state: ImportState): string {
  if ('epoch' in effect) assert.equal(effect.epoch, state.epoch);
  switch (effect.do) {
    case 'connect':
      return effect.nextAddress ? 'connect to the next address' : 'connect';
    case 'retryAfter':
      return `retryAfter ${effect.ms} ms`;
    case 'dropEverything':
      return `dropEverything: ${effect.reason}`;
    default:
      return effect.do;
  }
}

/** `connected new`, `connectionLost silent`, `evictedNotice: the reason`, `activeGranted of epoch 1`; the epoch is the state's if none is named. */
function eventOf(text: string, now: number): ImportEvent {
  const [, type = '', word, reason = '', epoch = now] =
    /^(\w+)(?: (?!of epoch)(\w+))?(?:: (.*?))?(?: of epoch (\d+))?$/.exec(text) ?? [];
  if (!EVENT_TYPES.has(type)) throw new Error(`no such event; there are ${[...EVENT_TYPES].join(', ')}`);
  if (type === 'connected') return { type, epoch: Number(epoch), outcome: word, reason } as ImportEvent;
  if (type === 'connectionLost') return { type, epoch: Number(epoch), silent: word === 'silent' };
  if (word !== undefined) throw new Error(`${type} is never ${word}`);
  return { type, epoch: Number(epoch), reason } as ImportEvent;
}

const STORIES = storiesOf('test/unit/client/session/scripts/import_state.txt', () => {
  let state = INITIAL;
  return (text) => {
    const next = step(state, eventOf(text, state.epoch));
    const isOther = stateText(next.state) !== stateText(state);
    state = next.state;
    return [
      ...(isOther ? [stateText(state)] : []),
      ...next.effects.map((effect) => effectText(effect, state)),
    ];
  };
});
for (const { title, run: told } of STORIES) test(title, told);

test('import: a client that another process takes over hangs up, and goes on only if it is told to', () => {
  const left = run(...FULL, { type: 'suspend' });
  assert.deepEqual(
    [stateText(left.state), left.effects],
    ['DISCON epoch 1, standing full', ['closeGate', 'hangUp']],
  );
  assert.deepEqual(step(left.state, lost(1)).effects, [], 'it does not connect again by itself');
  const back = step(step(left.state, retry(1)).state, connected(2, 'resumed'));
  assert.deepEqual(
    [back.state.name, back.effects.map((effect) => effect.do)],
    ['FULL', ['resume', 'openGate']],
  );
  // Only from FULL: there is something to hand over, and nothing is under way.
  assert.equal(run(start, { type: 'suspend' }).state.name, 'CONNECTING');
});

test('import: the process that takes a client over resumes its session', () => {
  const begun = step(TAKEN_OVER, start);
  assert.deepEqual(stateText(begun.state), 'CONNECTING epoch 1, standing full');
  const there = step(begun.state, connected(1, 'resumed'));
  assert.deepEqual(
    [there.state.name, there.effects.map((effect) => effect.do)],
    ['FULL', ['resume', 'openGate']],
  );
  // Another instance serves by then.
  assert.equal(step(begun.state, connected(1, 'recover')).state.name, 'REPLAY');
});

test('import: a retry comes soon at first, then a tenth later each time, and never later than the limit', () => {
  const waits = Array.from({ length: 60 }, (_, attempt) => retryMs(attempt));
  assert.deepEqual([waits[0], waits.at(-1)], [10, MAX_RETRY_MS]);
  for (const [index, wait] of waits.entries()) assert.ok(wait >= (waits[index - 1] ?? 0));
});

test('import: after a silent server the next address is tried first, after a broken connection the same one', () => {
  const nextAddress = (silent: boolean): boolean[] => {
    const gone: ImportEvent = { type: 'connectionLost', epoch: 1, silent };
    const { state } = run(...FULL, gone);
    return step(state, retry(1)).effects.map((effect) => effect.do === 'connect' && effect.nextAddress);
  };
  assert.deepEqual([nextAddress(true), nextAddress(false)], [[true], [false]]);
});

test('import: while a standby says "wait", the other address is asked again within 100 ms for ever', () => {
  let { state } = run(...AGAIN);
  let longest = 0;
  for (let round = 0; round < 500; round += 1) {
    const { epoch } = state as { epoch: number };
    // One says wait, the other refuses.
    const answer: ImportEvent = round % 2 === 0 ? connected(epoch, 'wait') : { type: 'connectFailed', epoch };
    const answered = step(state, answer);
    for (const effect of answered.effects)
      if (effect.do === 'retryAfter') longest = Math.max(longest, effect.ms);
    state = step(answered.state, retry(epoch)).state;
  }
  assert.ok(longest < 100, `${longest} ms`);
});

test('import: one of several addresses is given up after 300 ms at first, a lone one after seconds', () => {
  const waits = [0, 1, 2, 3, 4, 99].map((attempt) => patienceMs(attempt, 2).connect);
  assert.deepEqual([waits, patienceMs(99, 1).connect], [[300, 300, 600, 600, 1000, 1000], 3000]);
});

test('import: whatever happens, the gate is open exactly in FULL, and one connection is wanted at a time', () => {
  const outcomes = fc.constantFrom('new', 'resumed', 'recover', 'evicted', 'wait');
  const events = fc.array(
    fc.record({
      type: fc.constantFrom(...MIDDLE),
      age: fc.constantFrom(0, 0, 0, 1),
      outcome: outcomes,
    }),
    { maxLength: 60 },
  );
  fc.assert(
    fc.property(events, (list) => {
      let { state } = step(INITIAL, { type: 'start' });
      let open = false;
      let epochs = 1;
      for (const { type, age, outcome } of list) {
        // These two are of no connection.
        const epoch = type === 'drained' || type === 'dropped' ? {} : { epoch: state.epoch - age };
        const event = { type, ...epoch, outcome, reason: '' } as ImportEvent;
        const next = step(state, event);
        for (const effect of next.effects) {
          if (effect.do === 'openGate') open = true;
          if (effect.do === 'closeGate') open = false;
          if (effect.do === 'connect') {
            epochs += 1;
            assert.equal(effect.epoch, epochs);
          }
        }
        state = next.state;
        // A drain has closed its gate by itself before it says so.
        if (type === 'drained') open = false;
        if (state.name === 'DISCON' || state.name === 'CONNECTING') open = false;
        assert.equal(open, state.name === 'FULL', `${type} led to ${state.name}`);
      }
    }),
  );
});
