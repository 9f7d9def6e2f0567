/** The server's state machine: its table, as docs/recovery/states.md shows it, and what holds over any sequence of events. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type EventType,
  INITIAL,
  isShuttingDown,
  type LifecycleEffect,
  type LifecycleEvent,
  type LifecycleState,
  ruleOf,
  type StateName,
  step,
} from '../../../../src/server/lifecycle/state.js';
import { assertPrinted } from '../../../fixtures/generated_page.js';
import { readStories, storiesOf } from '../../../fixtures/script.js';

const CAUSE = new Error('the disk is gone');

/** One of each state, and those of its variants in which an event may mean something else. */
const STATES: readonly LifecycleState[] = [
  { name: 'standby' },
  { name: 'starting', after: { next: 'serve' } },
  { name: 'starting', after: { next: 'shutdown', drainTimeoutMs: 5000 } },
  { name: 'starting', after: { next: 'stop', shutdown: false } },
  { name: 'starting', after: { next: 'stop', shutdown: true } },
  { name: 'recovering', mayReplay: true },
  { name: 'recovering', mayReplay: false },
  { name: 'active' },
  { name: 'draining', marks: true, cancellable: true },
  { name: 'draining', marks: true, cancellable: false },
  { name: 'draining', marks: false, cancellable: false },
  { name: 'closing', marks: true },
  { name: 'closing', marks: false },
  { name: 'committing', marks: true },
  { name: 'committing', marks: false },
  { name: 'marking' },
  { name: 'stopping', end: 'stopped', shutdown: false, shown: 'active' },
  { name: 'stopping', end: 'failed', shutdown: true, shown: 'draining' },
  { name: 'releasing', end: 'clean', shutdown: true, shown: 'committing' },
  { name: 'releasing', end: 'stopped', shutdown: false, shown: 'active' },
  { name: 'stopped', end: 'stopped', shutdown: false },
  { name: 'stopped', end: 'clean', shutdown: true },
];

const EVENTS: readonly LifecycleEvent[] = [
  { type: 'activateAsked' },
  { type: 'begun', clients: 0, mayReplay: false },
  { type: 'begun', clients: 2, mayReplay: true },
  { type: 'startFailed' },
  { type: 'recoveryEnded' },
  { type: 'shutdownAsked', drainTimeoutMs: undefined },
  { type: 'shutdownAsked', drainTimeoutMs: 1000 },
  { type: 'cancelAsked' },
  { type: 'allDrained' },
  { type: 'portClosed' },
  { type: 'committed' },
  { type: 'marked' },
  { type: 'failed', cause: CAUSE },
  { type: 'stopAsked' },
  { type: 'released', failed: false },
  { type: 'released', failed: true },
];

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}

/** What stands between brackets behind a name. Of booleans only those that are true; of a cause nothing. */
function dataOf(record: object): string {
  const shown = Object.entries(record).flatMap(([key, value]): string[] => {
    if (['name', 'type', 'do', 'shown'].includes(key) || value instanceof Error) return [];
    if (typeof value === 'boolean') return value ? [key] : [];
    if (value === undefined) return [];
    if (key === 'after')
      return value.next === 'serve'
        ? []
        : [`then ${value.next}${dataOf(value).replace(/next: \w+,? ?/, '')}`.replace(' ()', '')];
    if (key === 'event') return [`${value.type}${dataOf(value)}`];
    return [key === 'text' ? `"${value}"` : `${key}: ${value}`];
  });
  return shown.length === 0 ? '' : ` (${shown.join(', ')})`;
}

const stateText = (state: LifecycleState): string => `${state.name}${dataOf(state)}`;
const eventText = (event: LifecycleEvent): string => `${event.type}${dataOf(event)}`;
const effectText = (effect: LifecycleEffect): string => `${effect.do}${dataOf(effect)}`;

interface Row {
  readonly state: LifecycleState;
  readonly event: LifecycleEvent;
  readonly next: LifecycleState;
  readonly effects: readonly LifecycleEffect[];
}

/** Every pair that changes something. */
function rows(): Row[] {
  const found: Row[] = [];
  for (const state of STATES) {
    for (const event of EVENTS) {
      const rule = ruleOf(state, event);
      if (rule === 'bug' || 'ignored' in rule) continue;
      if (rule.effects.length === 0 && stateText(rule.state) === stateText(state)) continue;
      found.push({ state, event, next: rule.state, effects: rule.effects });
    }
  }
  return found;
}

/** Without those of an event's variants that do the same as the first one. */
function shownRows(): Row[] {
  const seen = new Set<string>();
  return rows().filter(({ state, event, next, effects }) => {
    const row = [stateText(state), event.type, stateText(next), ...effects.map(effectText)].join('|');
    if (seen.has(row)) return false;
    seen.add(row);
    return true;
  });
}

function stepsTable(): string[] {
  const lines = shownRows().map(({ state, event, next, effects }) => {
    const does = effects.map(effectText).join('; ');
    return `| ${stateText(state)} | ${eventText(event)} | ${stateText(next)} | ${does || '-'} |`;
  });
  return ['| state | event | next state | effects, in order |', '|---|---|---|---|', ...lines];
}

/** What changes nothing, and why; and what cannot come. */
function restTable(): string[] {
  const lines = unique(STATES.map(({ name }) => name)).map((name) => {
    const ignored = new Map<string, EventType[]>();
    const bugs: EventType[] = [];
    for (const event of EVENTS) {
      const rule = ruleOf(stateNamed(name), event);
      if (rule === 'bug') bugs.push(event.type);
      else if ('ignored' in rule)
        ignored.set(rule.ignored, [...(ignored.get(rule.ignored) ?? []), event.type]);
    }
    const why = [...ignored]
      .map(([reason, events]) => `${unique(events).join(', ')}: ${reason}`)
      .join('<br>');
    return `| ${name} | ${why || '-'} | ${unique(bugs).join(', ') || '-'} |`;
  });
  return ['| state | changes nothing | cannot come |', '|---|---|---|', ...lines];
}

function stateNamed(name: StateName): LifecycleState {
  const found = STATES.find((state) => state.name === name);
  assert.ok(found !== undefined);
  return found;
}

function diagram(): string[] {
  const arrows = new Map<string, EventType[]>();
  for (const { state, event, next } of rows()) {
    if (state.name === next.name) continue;
    const arrow = `${state.name} --> ${next.name}`;
    arrows.set(arrow, unique([...(arrows.get(arrow) ?? []), event.type]));
  }
  const lines = [...arrows].map(([arrow, events]) => `  ${arrow}: ${events.join(', ')}`);
  return ['```mermaid', 'stateDiagram-v2', '  [*] --> standby', ...lines, '  stopped --> [*]', '```'];
}

test('the diagram and the tables in docs/recovery are those of the code', () => {
  assertPrinted('recovery/overview.md', 'lifecycle diagram', `${diagram().join('\n')}\n`);
  assertPrinted(
    'recovery/states.md',
    'lifecycle table',
    `${[...stepsTable(), '', ...restTable()].join('\n')}\n`,
  );
});

test('an event that cannot come is a bug, and said to be one', () => {
  assert.throws(() => step({ name: 'active' }, { type: 'marked' }), /marked in state active/);
  assert.throws(() => step(INITIAL, { type: 'recoveryEnded' }), /recoveryEnded in state standby/);
});

/** How far a server is on its way out: it never goes back from closing on. */
const RANK: Readonly<Record<StateName, number>> = {
  standby: 0,
  starting: 0,
  recovering: 0,
  active: 0,
  draining: 0,
  closing: 1,
  committing: 2,
  marking: 3,
  stopping: 4,
  releasing: 5,
  stopped: 6,
};

type Pending = 'begin' | 'closePort' | 'commit' | 'writeMark' | 'release';

/**
 * A server around the state machine, as server_life.ts is: it answers what it was told to do, and nothing else. Which of
 * the possible events comes next is the test's choice.
 */
class ModelServer {
  state: LifecycleState = INITIAL;
  readonly done: LifecycleEffect['do'][] = [];
  /** What it was told to do since the last event from outside. */
  told: LifecycleEffect[] = [];
  readonly #pending = new Set<Pending>();
  #hasStore = false;
  #drains = false;
  /** The recovery window: what really is, whether the server has given it up or not. */
  #window: 'none' | 'open' | 'given up' = 'none';
  #mayReplay = false;
  #drained = false;
  #committed = false;
  shutdowns = 0;
  readonly ends: string[] = [];

  possible(): LifecycleEvent[] {
    const events: LifecycleEvent[] = [
      { type: 'shutdownAsked', drainTimeoutMs: undefined },
      { type: 'shutdownAsked', drainTimeoutMs: 1000 },
      { type: 'cancelAsked' },
      { type: 'stopAsked' },
      // More often than the rest, so that long ways are gone to their end.
      ...this.answers(),
      ...this.answers(),
      ...this.answers(),
    ];
    if (this.state.name === 'standby') events.push({ type: 'activateAsked' });
    if (this.#hasStore) events.push({ type: 'failed', cause: CAUSE });
    return events;
  }

  /** What comes by itself, sooner or later. */
  answers(): LifecycleEvent[] {
    const events: LifecycleEvent[] = [];
    if (this.#pending.has('begin')) {
      events.push(
        { type: 'begun', clients: 0, mayReplay: true },
        { type: 'begun', clients: 0, mayReplay: false },
        { type: 'begun', clients: 2, mayReplay: true },
        { type: 'begun', clients: 2, mayReplay: false },
        { type: 'startFailed' },
      );
    }
    // A window that was given up while it was telling its end still says it.
    if (this.#window !== 'none') events.push({ type: 'recoveryEnded' });
    if (this.#drains) events.push({ type: 'allDrained' });
    if (this.#pending.has('closePort')) events.push({ type: 'portClosed' });
    if (this.#pending.has('commit')) events.push({ type: 'committed' });
    if (this.#pending.has('writeMark')) events.push({ type: 'marked' });
    if (this.#pending.has('release')) {
      events.push({ type: 'released', failed: false }, { type: 'released', failed: true });
    }
    return events;
  }

  happens(first: LifecycleEvent): void {
    if (first.type === 'shutdownAsked' && !isShuttingDown(this.state)) this.shutdowns += 1;
    this.told = [];
    const queue = [first];
    for (let event = queue.shift(); event !== undefined; event = queue.shift()) {
      const before = this.state;
      this.#note(event);
      const { state, effects } = step(before, event);
      this.state = state;
      for (const effect of effects) queue.push(...this.#apply(effect));
      this.#check(before);
    }
    const underWay = isShuttingDown(this.state) && this.state.name !== 'stopped' ? 1 : 0;
    assert.equal(this.ends.length, this.shutdowns - underWay, 'shutdowns without an end, or with two');
  }

  #note(event: LifecycleEvent): void {
    switch (event.type) {
      case 'begun':
        this.#pending.delete('begin');
        this.#hasStore = true;
        this.#window = event.clients > 0 ? 'open' : 'none';
        this.#mayReplay = event.clients > 0 && event.mayReplay;
        break;
      case 'startFailed':
        this.#pending.delete('begin');
        break;
      case 'recoveryEnded':
        this.#window = 'none';
        this.#mayReplay = false;
        break;
      case 'allDrained':
        this.#drains = false;
        this.#drained = true;
        break;
      case 'portClosed':
        this.#pending.delete('closePort');
        break;
      case 'committed':
        this.#pending.delete('commit');
        this.#committed = true;
        break;
      case 'marked':
        this.#pending.delete('writeMark');
        break;
      case 'released':
        this.#pending.delete('release');
        break;
      default:
        break;
    }
  }

  #apply(effect: LifecycleEffect): LifecycleEvent[] {
    this.done.push(effect.do);
    this.told.push(effect);
    switch (effect.do) {
      case 'ask':
        return [effect.event];
      case 'begin':
      case 'closePort':
      case 'commit':
      case 'release':
        this.#pending.add(effect.do);
        if (effect.do === 'release') this.#drains = false;
        break;
      case 'writeMark':
        this.#pending.add(effect.do);
        assert.ok(this.#committed, 'a mark before the last commit');
        assert.ok(this.#drained, 'a mark while clients are not drained');
        assert.ok(!this.#mayReplay, 'a mark while clients may replay');
        break;
      case 'giveUpRecovery':
        if (this.#window === 'open') this.#window = 'given up';
        break;
      case 'beginDrain':
        assert.notEqual(this.#window, 'open', 'clients drain that have not recovered');
        this.#drains = true;
        this.#drained = false;
        break;
      case 'stopDrain':
        this.#drains = false;
        break;
      case 'endShutdown':
        this.ends.push(effect.how);
        break;
      default:
        break;
    }
    return [];
  }

  #check(before: LifecycleState): void {
    const { name } = this.state;
    if (name === 'active') assert.equal(this.#window, 'none', 'active while clients recover');
    assert.ok(RANK[name] >= RANK[before.name] || RANK[before.name] === 0, `from ${before.name} to ${name}`);
    for (const once of ['closePort', 'commit', 'writeMark', 'release', 'close'] as const) {
      assert.ok(this.done.filter((effect) => effect === once).length <= 1, `${once} twice`);
    }
  }
}

/** Which of the possible events comes next, again and again. */
const choices = fc.array(fc.nat(999), { maxLength: 40, size: 'max' });

function runModel(picks: readonly number[]): ModelServer {
  const server = new ModelServer();
  for (const pick of picks) {
    const events = server.possible();
    const event = events[pick % events.length];
    if (event !== undefined) server.happens(event);
  }
  return server;
}

const RUNS = { numRuns: 5000 };

test('whatever happens, the order holds: recovered, drained, committed, marked, released, each once', () => {
  fc.assert(
    fc.property(choices, (picks) => {
      runModel(picks);
    }),
    RUNS,
  );
});

test('a server that is told to stop ends, whatever came before, and with it every shutdown', () => {
  fc.assert(
    fc.property(choices, fc.array(fc.nat(999), { minLength: 12, maxLength: 12 }), (picks, rest) => {
      const server = runModel(picks);
      server.happens({ type: 'stopAsked' });
      for (const pick of rest) {
        const answers = server.answers();
        const answer = answers[pick % answers.length];
        if (answer !== undefined) server.happens(answer);
      }
      assert.equal(server.state.name, 'stopped');
      assert.deepEqual(
        [server.ends.length, server.done.filter((done) => done === 'close').length],
        [server.shutdowns, 1],
      );
    }),
    RUNS,
  );
});

const STORIES = 'test/unit/server/lifecycle/scripts/state.txt';
/** Of the table in docs/recovery/states.md, and the one that the table leaves out because it differs in its state alone. */
const STORY_EVENTS: readonly LifecycleEvent[] = [...EVENTS, { type: 'begun', clients: 2, mayReplay: false }];

function eventNamed(text: string): LifecycleEvent {
  const event = STORY_EVENTS.find((each) => eventText(each) === text);
  if (event === undefined)
    throw new Error(`no such event; there are ${STORY_EVENTS.map(eventText).join(', ')}`);
  return event;
}

const stories = storiesOf(STORIES, () => {
  const server = new ModelServer();
  return (text) => {
    const before = stateText(server.state);
    server.happens(eventNamed(text));
    const now = stateText(server.state);
    return [...(now === before ? [] : [now]), ...server.told.map(effectText)];
  };
});
for (const { title, run } of stories) test(title, run);

test('the stories come to every state of the table', () => {
  const reached = readStories(STORIES).flatMap(({ lines }) => {
    const server = new ModelServer();
    return lines.map(({ event }) => {
      server.happens(eventNamed(event));
      return server.state.name;
    });
  });
  // Each begins in standby.
  assert.deepEqual(unique([INITIAL.name, ...reached]).sort(), unique(STATES.map(({ name }) => name)).sort());
});
