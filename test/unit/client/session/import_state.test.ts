import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type ImportEvent,
  type ImportState,
  INITIAL,
  MAX_RETRY_MS,
  patienceMs,
  retryMs,
  step,
} from '../../../../src/client/session/import_state.js';

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

const TABLE: readonly {
  name: string;
  events: ImportEvent[];
  state: ImportState['name'];
  effects: string[];
}[] = [
  { name: 'it starts by connecting', events: [start], state: 'CONNECTING', effects: ['connect'] },
  {
    name: 'a fresh export needs the active lock before anything else',
    events: [start, connected(1, 'new')],
    state: 'ACTIVE_LOCK',
    effects: ['adoptNew', 'enqueueActive'],
  },
  { name: 'with the active lock the gate opens', events: FULL, state: 'FULL', effects: ['openGate'] },
  {
    name: 'a lost connection closes the gate and is tried again soon',
    events: [...FULL, lost(1)],
    state: 'DISCON',
    effects: ['closeGate', 'retryAfter'],
  },
  {
    name: 'the same instance resumes: nothing is replayed',
    events: [...AGAIN, connected(2, 'resumed')],
    state: 'FULL',
    effects: ['resume', 'openGate'],
  },
  {
    name: 'another instance: operations that it may not have first',
    events: [...AGAIN, connected(2, 'recover')],
    state: 'REPLAY',
    effects: ['adoptRecover', 'replay'],
  },
  {
    name: 'then opens',
    events: [...AGAIN, connected(2, 'recover'), { type: 'replayed', epoch: 2 }],
    state: 'REPLAY_OPENS',
    effects: ['replayOpens'],
  },
  {
    name: 'then locks',
    events: [
      ...AGAIN,
      connected(2, 'recover'),
      { type: 'replayed', epoch: 2 },
      { type: 'opensReplayed', epoch: 2 },
    ],
    state: 'REPLAY_LOCKS',
    effects: ['replayLocks'],
  },
  {
    name: 'then it says that it is done',
    events: [
      ...AGAIN,
      connected(2, 'recover'),
      { type: 'replayed', epoch: 2 },
      { type: 'opensReplayed', epoch: 2 },
      { type: 'locksReplayed', epoch: 2 },
    ],
    state: 'WAIT_RECOVERED',
    effects: ['sayRecovered'],
  },
  {
    name: 'and asks for the active lock when the window has ended',
    events: [
      ...AGAIN,
      connected(2, 'recover'),
      { type: 'replayed', epoch: 2 },
      { type: 'opensReplayed', epoch: 2 },
      { type: 'locksReplayed', epoch: 2 },
      { type: 'recovered', epoch: 2 },
    ],
    state: 'ACTIVE_LOCK',
    effects: ['enqueueActive'],
  },
  {
    name: 'a connection lost in the middle of recovery: it begins again, resumed or not',
    events: [
      ...AGAIN,
      connected(2, 'recover'),
      { type: 'replayed', epoch: 2 },
      { type: 'opensReplayed', epoch: 2 },
      lost(2),
      retry(2),
      connected(3, 'resumed'),
    ],
    state: 'REPLAY',
    effects: ['adoptRecover', 'replay'],
  },
  {
    name: 'an evicted client drops everything, then connects as new',
    events: [...AGAIN, connected(2, 'evicted')],
    state: 'EVICTED',
    effects: ['closeGate', 'dropEverything', 'hangUp', 'reconnect'],
  },
  {
    name: 'when it is dropped: at once',
    events: [...AGAIN, connected(2, 'evicted'), { type: 'dropped' }],
    state: 'CONNECTING',
    effects: ['connect'],
  },
  {
    name: 'a server that does not know a client with state: that state is void',
    events: [...AGAIN, connected(2, 'new')],
    state: 'ACTIVE_LOCK',
    effects: ['dropEverything', 'adoptNew', 'enqueueActive'],
  },
  {
    name: 'a client without state that is told it is evicted does not hurry',
    events: [start, connected(1, 'evicted')],
    state: 'DISCON',
    effects: ['hangUp', 'retryAfter'],
  },
  {
    name: 'a standby says wait: the next address is tried',
    events: [...AGAIN, connected(2, 'wait'), retry(2)],
    state: 'CONNECTING',
    effects: ['connect'],
  },
  {
    name: 'drained: the active lock is asked for again',
    events: [...FULL, { type: 'drained' }],
    state: 'ACTIVE_LOCK',
    effects: ['enqueueActive'],
  },
  {
    name: 'drained while the connection was lost: resumed, it waits for the active lock',
    events: [...FULL, lost(1), { type: 'drained' }, retry(1), connected(2, 'resumed')],
    state: 'ACTIVE_LOCK',
    effects: ['resume', 'enqueueActive'],
  },
  {
    name: 'told that it is evicted while all was well',
    events: [...FULL, { type: 'evictedNotice', epoch: 1, reason: 'so' }],
    state: 'EVICTED',
    effects: ['closeGate', 'dropEverything', 'hangUp', 'reconnect'],
  },
  {
    name: 'an event of an older epoch changes nothing',
    events: [...AGAIN, connected(2, 'resumed'), lost(1)],
    state: 'FULL',
    effects: [],
  },
  {
    name: 'a late grant of an older connection changes nothing',
    events: [start, connected(1, 'new'), lost(1), retry(1), granted(1)],
    state: 'CONNECTING',
    effects: [],
  },
  {
    name: 'after stop nothing happens any more',
    events: [...FULL, { type: 'stop' }, lost(1), retry(1)],
    state: 'CLOSED',
    effects: [],
  },
];

for (const { name, events, state, effects } of TABLE) {
  test(`import: ${name}`, () => {
    const result = run(...events);
    assert.deepEqual([result.state.name, result.effects], [state, effects]);
  });
}

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
      type: fc.constantFrom(
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
      ),
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
