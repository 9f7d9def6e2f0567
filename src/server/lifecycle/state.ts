/**
 * The life of a server, as a pure step function: what each event means in each state, and what the server has to do then.
 * docs/recovery/overview.md has the diagram, states.md the table, which a test prints from here.
 *
 * A step does no I/O and reads no clock. Its owner (server.ts) sets the new state and then applies the effects in their order;
 * an event that comes meanwhile waits until they are applied (lifecycle.ts).
 *
 * Invariants, which the test checks over random sequences of events:
 * - The server is never active while a client of the instance before may still replay.
 * - The clean mark is written after the last commit, and only if every client is drained or evicted and nobody may still
 *   replay: what is still to be replayed is what the mark says there is not.
 * - From `closing` on there is no way back, and `stopped` is final.
 * - Each accepted shutdown ends once: clean, unmarked, cancelled, stopped or failed.
 * - The port is closed once, the mark is written once, the target is released once.
 */

import { AssertionFailure } from '../../base/assert.js';
import type { ServerStateName } from '../../wire/admin.js';

/** How a server ends. 'clean' is also the end of one that has served nothing: there is nothing to mark. */
export type End = 'clean' | 'unmarked' | 'stopped' | 'failed';

/** How a shutdown ends for whoever asked for it. Of a server that was stopped, or has failed, it ends with an error. */
export type ShutdownEnd = 'clean' | 'unmarked' | 'cancelled';

/** What comes after the start. A shutdown or a stop cannot be obeyed in the middle of it: begin() would write behind its back. */
export type AfterStart =
  | { readonly next: 'serve' }
  | { readonly next: 'shutdown'; readonly drainTimeoutMs: number | undefined }
  /** shutdown: somebody who asked for a shutdown before waits for its end. */
  | { readonly next: 'stop'; readonly shutdown: boolean };

export type LifecycleState =
  /** It listens, and has no target. */
  | { readonly name: 'standby' }
  /** The target is being begun. */
  | { readonly name: 'starting'; readonly after: AfterStart }
  /** mayReplay: the instance before was killed, so its clients may have operations to replay. */
  | { readonly name: 'recovering'; readonly mayReplay: boolean }
  | { readonly name: 'active' }
  /**
   * Clients drain. marks: the clean mark may be written at the end. cancellable: the server was active; a recovery that
   * was given up is nothing to go back to.
   */
  | { readonly name: 'draining'; readonly marks: boolean; readonly cancellable: boolean }
  /** Everybody is drained; the port is being closed. */
  | { readonly name: 'closing'; readonly marks: boolean }
  /** What runs ends, and all of it is committed. */
  | { readonly name: 'committing'; readonly marks: boolean }
  /** The clean mark is being written. */
  | { readonly name: 'marking' }
  /** It ends without draining; the port is being closed. shown: the state that STATUS shows meanwhile. */
  | {
      readonly name: 'stopping';
      readonly end: End;
      readonly shutdown: boolean;
      readonly shown: ServerStateName;
    }
  /** Connections end, then the devices are free. */
  | {
      readonly name: 'releasing';
      readonly end: End;
      readonly shutdown: boolean;
      readonly shown: ServerStateName;
    }
  | { readonly name: 'stopped'; readonly end: End; readonly shutdown: boolean };

export type LifecycleEvent =
  /** A target that the version gate lets this server have. One that the gate refuses changes nothing. */
  | { readonly type: 'activateAsked' }
  /** begin() is done and the target is there. clients: of the instance before, to be waited for. */
  | { readonly type: 'begun'; readonly clients: number; readonly mayReplay: boolean }
  /** It is not, and its store is closed. */
  | { readonly type: 'startFailed' }
  /** The recovery window is over. */
  | { readonly type: 'recoveryEnded' }
  /** drainTimeoutMs absent: as the server's options say. */
  | { readonly type: 'shutdownAsked'; readonly drainTimeoutMs: number | undefined }
  | { readonly type: 'cancelAsked' }
  /** Every client is drained or evicted: the server has the active lock. */
  | { readonly type: 'allDrained' }
  | { readonly type: 'portClosed' }
  /** All that was executed is durable, and nothing is under way. */
  | { readonly type: 'committed' }
  | { readonly type: 'marked' }
  /** The store has failed, or a step of the shutdown has. */
  | { readonly type: 'failed'; readonly cause: Error }
  | { readonly type: 'stopAsked' }
  /** failed: closing the store threw. */
  | { readonly type: 'released'; readonly failed: boolean };

export type LifecycleEffect =
  /** Says the state, as shown. */
  | { readonly do: 'announce' }
  | { readonly do: 'say'; readonly text: string }
  /** Answered by 'begun' or 'startFailed'. */
  | { readonly do: 'begin' }
  /** Orphans that nobody opened again are destroyed, in the background. A start without clients does that itself. */
  | { readonly do: 'sweepOrphans' }
  /** Requests that were held are executed. */
  | { readonly do: 'serveHeld' }
  /** The window's clients stay known, and recover with the next instance. */
  | { readonly do: 'giveUpRecovery' }
  /** Answered by 'allDrained', unless stopDrain comes before. */
  | { readonly do: 'beginDrain'; readonly drainTimeoutMs: number | undefined }
  | { readonly do: 'limitDrain'; readonly drainTimeoutMs: number }
  /** Clients that have drained already get the active lock again. */
  | { readonly do: 'stopDrain' }
  /** Answered by 'portClosed'. */
  | { readonly do: 'closePort' }
  /** Answered by 'committed'. marks: the clean mark comes next. */
  | { readonly do: 'commit'; readonly marks: boolean }
  /** Answered by 'marked'. */
  | { readonly do: 'writeMark' }
  /** Administrators who asked for the shutdown are told who was evicted by it. */
  | { readonly do: 'tellHowItEnded' }
  | { readonly do: 'noteFailure'; readonly cause: Error }
  /** Answered by 'released'. */
  | { readonly do: 'release' }
  /** Whoever asked for the shutdown learns its end. */
  | { readonly do: 'endShutdown'; readonly how: End | 'cancelled' }
  /** The server is over. */
  | { readonly do: 'close' }
  /** Asks once more, now that the start is done. */
  | { readonly do: 'ask'; readonly event: LifecycleEvent };

export interface Step {
  readonly state: LifecycleState;
  readonly effects: readonly LifecycleEffect[];
}

export type StateName = LifecycleState['name'];
export type EventType = LifecycleEvent['type'];
type StateOf<N extends StateName> = Extract<LifecycleState, { readonly name: N }>;
type EventOf<T extends EventType> = Extract<LifecycleEvent, { readonly type: T }>;

/** The event changes nothing in this state, for this reason. */
export interface Ignored {
  readonly ignored: string;
}
/** The event cannot come in this state: that it does is a bug of the server. */
const BUG = 'bug';

type Rule<N extends StateName, T extends EventType> =
  | ((state: StateOf<N>, event: EventOf<T>) => Step)
  | Ignored
  | typeof BUG;
type Rules = { readonly [N in StateName]: { readonly [T in EventType]: Rule<N, T> } };

export const INITIAL: LifecycleState = { name: 'standby' };

/** Why a shutdown leaves no mark, and what to do. */
export const NOT_RECOVERED =
  'the recovery from a crash is not over, so only this version may go on with it; start it once more, and shut it down when it is active';

const ANNOUNCE = { do: 'announce' } as const;

function say(text: string): LifecycleEffect {
  return { do: 'say', text };
}

function stay(state: LifecycleState, ...effects: readonly LifecycleEffect[]): Step {
  return { state, effects };
}

function ignore(ignored: string): Ignored {
  return { ignored };
}

/** The state that STATUS and CONNECT show. */
export function shownAs(state: LifecycleState): ServerStateName {
  switch (state.name) {
    case 'closing':
      return 'draining';
    case 'marking':
      return 'committing';
    case 'stopping':
    case 'releasing':
      return state.shown;
    default:
      return state.name;
  }
}

export function isCancellable(state: LifecycleState): boolean {
  return (
    (state.name === 'draining' && state.cancellable) ||
    (state.name === 'starting' && state.after.next === 'shutdown')
  );
}

/** A shutdown was asked for and not taken back. */
export function isShuttingDown(state: LifecycleState): boolean {
  switch (state.name) {
    case 'starting':
      return state.after.next === 'shutdown' || (state.after.next === 'stop' && state.after.shutdown);
    case 'draining':
    case 'closing':
    case 'committing':
    case 'marking':
      return true;
    case 'stopping':
    case 'releasing':
    case 'stopped':
      return state.shutdown;
    default:
      return false;
  }
}

/** Ends without draining: the port is closed first, so that nobody new comes to a server that leaves. */
function stop(state: LifecycleState, end: End, ...first: readonly LifecycleEffect[]): Step {
  return {
    state: { name: 'stopping', end, shutdown: isShuttingDown(state), shown: shownAs(state) },
    effects: [...first, { do: 'closePort' }],
  };
}

function release(state: LifecycleState, end: End, ...first: readonly LifecycleEffect[]): Step {
  return {
    state: { name: 'releasing', end, shutdown: isShuttingDown(state), shown: shownAs(state) },
    effects: [...first, { do: 'release' }],
  };
}

function note({ cause }: EventOf<'failed'>): LifecycleEffect {
  return { do: 'noteFailure', cause };
}

function begun({ after }: StateOf<'starting'>, { clients, mayReplay }: EventOf<'begun'>): Step {
  const asks = asksAgain(after);
  if (clients === 0) return { state: { name: 'active' }, effects: [ANNOUNCE, { do: 'serveHeld' }, ...asks] };
  return {
    state: { name: 'recovering', mayReplay },
    effects: [ANNOUNCE, say(`waits for ${clients} clients to recover`), ...asks],
  };
}

function asksAgain(after: AfterStart): LifecycleEffect[] {
  if (after.next === 'serve') return [];
  const { drainTimeoutMs } = after.next === 'shutdown' ? after : { drainTimeoutMs: undefined };
  const shutdown: LifecycleEffect = { do: 'ask', event: { type: 'shutdownAsked', drainTimeoutMs } };
  const stopIt: LifecycleEffect = { do: 'ask', event: { type: 'stopAsked' } };
  if (after.next === 'shutdown') return [shutdown];
  return after.shutdown ? [shutdown, stopIt] : [stopIt];
}

function startFailed(state: StateOf<'starting'>): Step {
  if (state.after.next === 'serve') return stay(INITIAL, ANNOUNCE);
  return stop(state, 'stopped');
}

/** Of several shutdowns that are asked for while the server starts, the earlier end holds, as it does later. */
function shutDownAfterStart(state: StateOf<'starting'>, { drainTimeoutMs }: EventOf<'shutdownAsked'>): Step {
  const { after } = state;
  if (after.next === 'stop') return stay({ ...state, after: { ...after, shutdown: true } });
  const limits = [drainTimeoutMs, after.next === 'shutdown' ? after.drainTimeoutMs : undefined];
  const given = limits.filter((limit) => limit !== undefined);
  const limitMs = given.length === 0 ? undefined : Math.min(...given);
  return stay({ ...state, after: { next: 'shutdown', drainTimeoutMs: limitMs } });
}

function cancelAfterStart(state: StateOf<'starting'>): Step {
  if (!isCancellable(state)) return stay(state);
  return stay({ name: 'starting', after: { next: 'serve' } }, { do: 'endShutdown', how: 'cancelled' });
}

function shutDownInRecovery(
  { mayReplay }: StateOf<'recovering'>,
  { drainTimeoutMs }: EventOf<'shutdownAsked'>,
): Step {
  return {
    state: { name: 'draining', marks: !mayReplay, cancellable: false },
    effects: [ANNOUNCE, { do: 'giveUpRecovery' }, { do: 'beginDrain', drainTimeoutMs }],
  };
}

function cancelDrain(state: StateOf<'draining'>): Step {
  if (!state.cancellable) return stay(state);
  return {
    state: { name: 'active' },
    effects: [
      { do: 'stopDrain' },
      say('the shutdown was taken back'),
      ANNOUNCE,
      { do: 'serveHeld' },
      { do: 'endShutdown', how: 'cancelled' },
    ],
  };
}

function committed(state: StateOf<'committing'>): Step {
  if (state.marks) return stay({ name: 'marking' }, { do: 'writeMark' });
  return release(state, 'unmarked', say(`stops without the clean mark: ${NOT_RECOVERED}`), {
    do: 'tellHowItEnded',
  });
}

function released({ end, shutdown }: StateOf<'releasing'>, { failed }: EventOf<'released'>): Step {
  const how = failed ? 'failed' : end;
  return {
    state: { name: 'stopped', end: how, shutdown },
    effects: [ANNOUNCE, { do: 'close' }, ...(shutdown ? [{ do: 'endShutdown', how } as const] : [])],
  };
}

const NOT_STARTING = { activateAsked: BUG, begun: BUG, startFailed: BUG } as const;
const NOT_ENDING = { portClosed: BUG, committed: BUG, marked: BUG, released: BUG } as const;
const NO_DRAIN = { allDrained: BUG } as const;
const NOT_SHUTTING_DOWN = { cancelAsked: ignore('no shutdown is under way') } as const;
const TOO_LATE = { cancelAsked: ignore('too late') } as const;
const JOINS = ignore('joins the shutdown that is under way');
const STOPS_ALREADY = { stopAsked: ignore('it ends already') } as const;
/** RecoveryWindow says its end when it has told its clients: one of them, or the server's user, may have asked first. */
const RECOVERY_GIVEN_UP = { recoveryEnded: ignore('the recovery was given up') } as const;
/** What the server was waiting for when it was told to end, or when it failed. */
const OVERTAKEN = ignore('the server ends without it');

const RULES: Rules = {
  standby: {
    ...NOT_SHUTTING_DOWN,
    ...NOT_ENDING,
    ...NO_DRAIN,
    activateAsked: () => stay({ name: 'starting', after: { next: 'serve' } }, ANNOUNCE, { do: 'begin' }),
    begun: BUG,
    startFailed: BUG,
    recoveryEnded: BUG,
    // Nothing was served: no mark is missing.
    shutdownAsked: (state) => ({
      state: { name: 'stopping', end: 'clean', shutdown: true, shown: shownAs(state) },
      effects: [{ do: 'closePort' }],
    }),
    failed: BUG,
    stopAsked: (state) => stop(state, 'clean'),
  },
  starting: {
    ...NOT_ENDING,
    ...NO_DRAIN,
    activateAsked: BUG,
    begun,
    startFailed,
    recoveryEnded: BUG,
    shutdownAsked: shutDownAfterStart,
    cancelAsked: cancelAfterStart,
    failed: ignore('the start fails with it, and says so'),
    stopAsked: (state) => stay({ ...state, after: { next: 'stop', shutdown: isShuttingDown(state) } }),
  },
  recovering: {
    ...NOT_STARTING,
    ...NOT_ENDING,
    ...NO_DRAIN,
    ...NOT_SHUTTING_DOWN,
    recoveryEnded: () => stay({ name: 'active' }, ANNOUNCE, { do: 'sweepOrphans' }, { do: 'serveHeld' }),
    shutdownAsked: shutDownInRecovery,
    failed: (state, event) => stop(state, 'failed', note(event), { do: 'giveUpRecovery' }),
    stopAsked: (state) => stop(state, 'stopped', { do: 'giveUpRecovery' }),
  },
  active: {
    ...NOT_STARTING,
    ...NOT_ENDING,
    ...NO_DRAIN,
    ...NOT_SHUTTING_DOWN,
    recoveryEnded: BUG,
    shutdownAsked: (_state, { drainTimeoutMs }) =>
      stay({ name: 'draining', marks: true, cancellable: true }, ANNOUNCE, {
        do: 'beginDrain',
        drainTimeoutMs,
      }),
    failed: (state, event) => stop(state, 'failed', note(event)),
    stopAsked: (state) => stop(state, 'stopped'),
  },
  draining: {
    ...NOT_STARTING,
    ...NOT_ENDING,
    ...RECOVERY_GIVEN_UP,
    shutdownAsked: (state, { drainTimeoutMs }) =>
      drainTimeoutMs === undefined ? stay(state) : stay(state, { do: 'limitDrain', drainTimeoutMs }),
    cancelAsked: cancelDrain,
    // So that a standby on the same address gets the port. The active lock is never given back: the next instance grants it.
    allDrained: ({ marks }) => stay({ name: 'closing', marks }, { do: 'closePort' }),
    failed: (state, event) => stop(state, 'failed', note(event)),
    stopAsked: (state) => stop(state, 'stopped'),
  },
  closing: {
    ...NOT_STARTING,
    ...NOT_ENDING,
    ...NO_DRAIN,
    ...TOO_LATE,
    ...RECOVERY_GIVEN_UP,
    shutdownAsked: JOINS,
    portClosed: ({ marks }) => stay({ name: 'committing', marks }, ANNOUNCE, { do: 'commit', marks }),
    // The port is being closed already: what stop() asks for once more is left out.
    failed: (state, event) => ({ ...stop(state, 'failed'), effects: [note(event)] }),
    stopAsked: (state) => ({ ...stop(state, 'stopped'), effects: [] }),
  },
  committing: {
    ...NOT_STARTING,
    ...NOT_ENDING,
    ...NO_DRAIN,
    ...TOO_LATE,
    ...RECOVERY_GIVEN_UP,
    shutdownAsked: JOINS,
    committed,
    failed: (state, event) => release(state, 'failed', note(event)),
    stopAsked: (state) => release(state, 'stopped'),
  },
  marking: {
    ...NOT_STARTING,
    ...NOT_ENDING,
    ...NO_DRAIN,
    ...TOO_LATE,
    ...RECOVERY_GIVEN_UP,
    shutdownAsked: JOINS,
    marked: (state) => release(state, 'clean', say('the clean mark is written'), { do: 'tellHowItEnded' }),
    failed: (state, event) => release(state, 'failed', note(event)),
    // The mark is on its way to the device; nothing but the release comes after it.
    stopAsked: ignore('it ends as soon as the mark is written'),
  },
  stopping: {
    ...NOT_STARTING,
    ...NOT_ENDING,
    ...TOO_LATE,
    ...RECOVERY_GIVEN_UP,
    ...STOPS_ALREADY,
    allDrained: OVERTAKEN,
    shutdownAsked: (state) => stay({ ...state, shutdown: true }),
    portClosed: (state) => release(state, state.end),
    failed: (state, event) =>
      state.end === 'failed' ? stay(state) : stay({ ...state, end: 'failed' }, note(event)),
  },
  releasing: {
    ...NOT_STARTING,
    ...TOO_LATE,
    ...RECOVERY_GIVEN_UP,
    ...STOPS_ALREADY,
    allDrained: BUG,
    shutdownAsked: (state) => stay({ ...state, shutdown: true }),
    portClosed: BUG,
    committed: OVERTAKEN,
    marked: OVERTAKEN,
    failed: ignore('the store is being closed'),
    released,
  },
  stopped: {
    ...NOT_STARTING,
    ...TOO_LATE,
    ...RECOVERY_GIVEN_UP,
    ...STOPS_ALREADY,
    allDrained: BUG,
    shutdownAsked: (state) =>
      state.shutdown
        ? stay(state)
        : stay({ ...state, shutdown: true }, { do: 'endShutdown', how: state.end }),
    portClosed: BUG,
    committed: OVERTAKEN,
    marked: OVERTAKEN,
    failed: ignore('the store is closed'),
    released: BUG,
  },
};

/** What an event means in a state: a step, nothing, or a bug. */
export function ruleOf(state: LifecycleState, event: LifecycleEvent): Step | Ignored | typeof BUG {
  // The rule of a pair takes that pair: TypeScript cannot say so of a lookup by two variables.
  const rule = RULES[state.name][event.type] as Rule<StateName, EventType>;
  return typeof rule === 'function' ? rule(state, event) : rule;
}

/** @returns the next state and what the owner has to do, in order. @throws AssertionFailure for an event that cannot come in this state. */
export function step(state: LifecycleState, event: LifecycleEvent): Step {
  const rule = ruleOf(state, event);
  if (rule === BUG) throw new AssertionFailure(`server lifecycle: ${event.type} in state ${state.name}`);
  return 'ignored' in rule ? stay(state) : rule;
}
