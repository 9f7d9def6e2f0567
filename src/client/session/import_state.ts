/**
 * The import's state machine, as a pure step function: what a client does about its connection to one target.
 *
 *   DISCON -> CONNECTING -> (new) ----------------------------------------> ACTIVE_LOCK -> FULL
 *                        -> (recover) REPLAY -> REPLAY_OPENS -> REPLAY_LOCKS -> WAIT_RECOVERED -^
 *                        -> (resumed) back to where it was
 *                        -> (evicted) EVICTED -> CONNECTING, as a new client
 *                        -> (wait) DISCON
 *   FULL -> (drained: the active lock was given back) ACTIVE_LOCK -> FULL, or the connection ends
 *
 * Invariants:
 * - The epoch grows by one with each attempt to connect. An event that carries an older epoch is late and changes
 *   nothing: the failure of a connection must not tear down the one that replaced it.
 * - `standing` outlives a broken connection: it says how far this client had come with the server instance, so that a
 *   connection that is resumed goes on from there and nowhere else.
 */

import { assertNever } from '../../base/assert.js';

/**
 * How this client stands with the instance it last spoke to.
 * none: no export there; replaying: recovery was not finished; waiting: recovered, without the active lock;
 * full: holds the active lock.
 */
export type Standing = 'none' | 'replaying' | 'waiting' | 'full';

export type ImportState =
  | { readonly name: 'DISCON'; readonly epoch: number; readonly attempt: number; readonly standing: Standing }
  | {
      readonly name: 'CONNECTING';
      readonly epoch: number;
      readonly attempt: number;
      readonly standing: Standing;
    }
  | {
      readonly name: 'REPLAY' | 'REPLAY_OPENS' | 'REPLAY_LOCKS' | 'WAIT_RECOVERED';
      readonly epoch: number;
    }
  | { readonly name: 'ACTIVE_LOCK'; readonly epoch: number }
  | { readonly name: 'FULL'; readonly epoch: number }
  | { readonly name: 'EVICTED'; readonly epoch: number; readonly reason: string }
  | { readonly name: 'CLOSED'; readonly epoch: number };

export type ConnectOutcome = 'new' | 'resumed' | 'recover' | 'evicted' | 'wait';

export type ImportEvent =
  | { readonly type: 'start' }
  | { readonly type: 'retryDue'; readonly epoch: number }
  | { readonly type: 'connectFailed'; readonly epoch: number }
  | {
      readonly type: 'connected';
      readonly epoch: number;
      readonly outcome: ConnectOutcome;
      readonly reason: string;
    }
  /** silent: the connection may still stand, but the server does not answer. */
  | { readonly type: 'connectionLost'; readonly epoch: number; readonly silent?: boolean }
  | {
      readonly type: 'replayed' | 'opensReplayed' | 'locksReplayed' | 'recovered';
      readonly epoch: number;
    }
  | { readonly type: 'activeGranted'; readonly epoch: number }
  /** The drain is complete: the client has given the active lock back, and now asks for it again. */
  | { readonly type: 'drained' }
  | { readonly type: 'evictedNotice'; readonly epoch: number; readonly reason: string }
  /** The client has dropped everything that the eviction voids. */
  | { readonly type: 'dropped' }
  /** Another process takes this client over. A retryDue takes it back. */
  | { readonly type: 'suspend' }
  | { readonly type: 'stop' };

export type ImportEffect =
  /** Opens a connection; the state is CONNECTING with this epoch. */
  | {
      readonly do: 'connect';
      readonly epoch: number;
      readonly attempt: number;
      readonly nextAddress: boolean;
    }
  | { readonly do: 'retryAfter'; readonly ms: number; readonly epoch: number }
  /** The gate closes for new operations. */
  | { readonly do: 'closeGate' }
  | { readonly do: 'openGate' }
  /** Takes the connection, and what CONNECT brought for a fresh export. */
  | { readonly do: 'adoptNew' }
  /** Same instance: sends the waiting calls again. */
  | { readonly do: 'resume' }
  /** Another instance that knows this client: voids what that instance cannot have, and takes the connection. */
  | { readonly do: 'adoptRecover' }
  | { readonly do: 'replay'; readonly epoch: number }
  | { readonly do: 'replayOpens'; readonly epoch: number }
  | { readonly do: 'replayLocks'; readonly epoch: number }
  | { readonly do: 'sayRecovered'; readonly epoch: number }
  | { readonly do: 'enqueueActive'; readonly epoch: number }
  | { readonly do: 'dropEverything'; readonly reason: string }
  /** Ends the current connection. */
  | { readonly do: 'hangUp' }
  /** The import answers with the event 'dropped'. */
  | { readonly do: 'reconnect' }
  | { readonly do: 'disconnect' };

export interface Step {
  readonly state: ImportState;
  readonly effects: readonly ImportEffect[];
}

/** Delay of the first retry: the client finds a server that restarts in milliseconds within milliseconds. */
export const FIRST_RETRY_MS = 10;
/** Longest delay between retries, for a port that refuses for a long time. */
export const MAX_RETRY_MS = 500;
/** Each delay is a tenth longer than the last, so the retries make an outage a tenth longer at most. */
const RETRY_GROWTH = 1.1;
/** The client asks a standby that said "wait" this often, so it notices the takeover within one such delay. */
export const WAIT_RETRY_MS = 20;
/** While a server says "wait", the attempt count stops here, so that retries at the other address keep a short delay. */
const WAIT_ATTEMPT_MAX = 20;

/** Patience with a single address. It gets more time, because there is no other address to try. */
const LONE_ADDRESS_MS = { connect: 3000, answer: 10_000 } as const;
/** An address that drops packets must not hold up the other one. It gets more time in each further round, up to the limit. */
const FIRST_CONNECT_MS = 300;
const MAX_CONNECT_MS = 1000;
/** The kernel of a stopped server process still accepts connections, but the process answers nothing. */
const ANSWER_MS = 1000;

export const INITIAL: ImportState = { name: 'DISCON', epoch: 0, attempt: 0, standing: 'none' };
/** Of a process that goes on as a client that another one has been. */
export const TAKEN_OVER: ImportState = { ...INITIAL, standing: 'full' };

function stay(state: ImportState): Step {
  return { state, effects: [] };
}

/** How far the client had come with the instance, by state. */
function standingOf(state: ImportState): Standing {
  switch (state.name) {
    case 'DISCON':
    case 'CONNECTING':
      return state.standing;
    case 'REPLAY':
    case 'REPLAY_OPENS':
    case 'REPLAY_LOCKS':
    case 'WAIT_RECOVERED':
      return 'replaying';
    case 'ACTIVE_LOCK':
      return 'waiting';
    case 'FULL':
      return 'full';
    case 'EVICTED':
    case 'CLOSED':
      return 'none';
    default:
      return assertNever(state);
  }
}

export function retryMs(attempt: number): number {
  return Math.min(MAX_RETRY_MS, Math.round(FIRST_RETRY_MS * RETRY_GROWTH ** attempt));
}

/** How long one address may take to connect, and then to answer CONNECT, before the client tries the next one. */
export function patienceMs(
  attempt: number,
  addresses: number,
): { readonly connect: number; readonly answer: number } {
  if (addresses === 1) return LONE_ADDRESS_MS;
  const round = Math.floor(attempt / addresses);
  return { connect: Math.min(MAX_CONNECT_MS, FIRST_CONNECT_MS * 2 ** round), answer: ANSWER_MS };
}

function retryLater(
  state: ImportState & { name: 'CONNECTING' },
  ms: number,
  attemptMax = Number.MAX_SAFE_INTEGER,
): Step {
  const attempt = Math.min(state.attempt + 1, attemptMax);
  return {
    state: { name: 'DISCON', epoch: state.epoch, attempt, standing: state.standing },
    effects: [{ do: 'hangUp' }, { do: 'retryAfter', ms, epoch: state.epoch }],
  };
}

function connect(epoch: number, attempt: number, standing: Standing): Step {
  return {
    state: { name: 'CONNECTING', epoch, attempt, standing },
    effects: [{ do: 'connect', epoch, attempt, nextAddress: attempt > 0 }],
  };
}

function connected(
  state: ImportState & { name: 'CONNECTING' },
  event: { readonly outcome: ConnectOutcome; readonly reason: string },
): Step {
  const epoch = state.epoch;
  switch (event.outcome) {
    case 'new':
      return {
        state: { name: 'ACTIVE_LOCK', epoch },
        effects: [
          // The server does not know this client any more, although the client had state there: that state is void.
          ...(state.standing === 'none'
            ? []
            : [{ do: 'dropEverything', reason: 'the server does not know this client any more' } as const]),
          { do: 'adoptNew' },
          { do: 'enqueueActive', epoch },
        ],
      };
    case 'resumed':
      return resumed(state);
    case 'recover':
      return recover(epoch);
    case 'evicted':
      // The client has nothing to drop, and the server says "evicted" again: no reason to hurry.
      if (state.standing === 'none') return retryLater(state, retryMs(state.attempt));
      return evicted(epoch, event.reason);
    case 'wait':
      return retryLater(state, WAIT_RETRY_MS, WAIT_ATTEMPT_MAX);
    default:
      return assertNever(event.outcome);
  }
}

function resumed(state: ImportState & { name: 'CONNECTING' }): Step {
  const epoch = state.epoch;
  switch (state.standing) {
    case 'full':
      return { state: { name: 'FULL', epoch }, effects: [{ do: 'resume' }, { do: 'openGate' }] };
    case 'waiting':
      // The ENQUEUE of the active lock ended with its connection, and its grant may be lost: the client asks anew.
      return {
        state: { name: 'ACTIVE_LOCK', epoch },
        effects: [{ do: 'resume' }, { do: 'enqueueActive', epoch }],
      };
    case 'replaying':
      // Replay is idempotent: begin again.
      return recover(epoch);
    case 'none':
      // The server is wrong: there was nothing to resume.
      return retryLater(state, retryMs(state.attempt));
    default:
      return assertNever(state.standing);
  }
}

function recover(epoch: number): Step {
  return {
    state: { name: 'REPLAY', epoch },
    effects: [{ do: 'adoptRecover' }, { do: 'replay', epoch }],
  };
}

function evicted(epoch: number, reason: string): Step {
  return {
    state: { name: 'EVICTED', epoch, reason },
    effects: [{ do: 'closeGate' }, { do: 'dropEverything', reason }, { do: 'hangUp' }, { do: 'reconnect' }],
  };
}

/** @returns the next state and what the owner has to do, in order. */
export function step(state: ImportState, event: ImportEvent): Step {
  if (state.name === 'CLOSED') return stay(state);
  if ('epoch' in event && event.epoch !== state.epoch) return stay(state);
  switch (event.type) {
    case 'start':
      if (state.name !== 'DISCON' || state.epoch !== 0) return stay(state);
      return connect(1, 0, state.standing);
    case 'retryDue':
      if (state.name !== 'DISCON') return stay(state);
      return connect(state.epoch + 1, state.attempt, state.standing);
    case 'connectFailed':
      return state.name === 'CONNECTING' ? retryLater(state, retryMs(state.attempt)) : stay(state);
    case 'connected':
      return state.name === 'CONNECTING' ? connected(state, event) : stay(state);
    case 'connectionLost':
      return connectionLost(state, event.silent ?? false);
    case 'replayed':
      if (state.name !== 'REPLAY') return stay(state);
      return {
        state: { name: 'REPLAY_OPENS', epoch: state.epoch },
        effects: [{ do: 'replayOpens', epoch: state.epoch }],
      };
    case 'opensReplayed':
      if (state.name !== 'REPLAY_OPENS') return stay(state);
      return {
        state: { name: 'REPLAY_LOCKS', epoch: state.epoch },
        effects: [{ do: 'replayLocks', epoch: state.epoch }],
      };
    case 'locksReplayed':
      if (state.name !== 'REPLAY_LOCKS') return stay(state);
      return {
        state: { name: 'WAIT_RECOVERED', epoch: state.epoch },
        effects: [{ do: 'sayRecovered', epoch: state.epoch }],
      };
    case 'recovered':
      if (state.name !== 'WAIT_RECOVERED') return stay(state);
      return {
        state: { name: 'ACTIVE_LOCK', epoch: state.epoch },
        effects: [{ do: 'enqueueActive', epoch: state.epoch }],
      };
    case 'activeGranted':
      if (state.name !== 'ACTIVE_LOCK') return stay(state);
      return { state: { name: 'FULL', epoch: state.epoch }, effects: [{ do: 'openGate' }] };
    case 'drained':
      return drained(state);
    case 'evictedNotice':
      return state.name === 'EVICTED' ? stay(state) : evicted(state.epoch, event.reason);
    case 'dropped':
      if (state.name !== 'EVICTED') return stay(state);
      return connect(state.epoch + 1, 0, 'none');
    case 'suspend':
      if (state.name !== 'FULL') return stay(state);
      return {
        state: { name: 'DISCON', epoch: state.epoch, attempt: 0, standing: 'full' },
        effects: [{ do: 'closeGate' }, { do: 'hangUp' }],
      };
    case 'stop':
      return {
        state: { name: 'CLOSED', epoch: state.epoch },
        effects: [{ do: 'closeGate' }, { do: 'disconnect' }],
      };
    default:
      return assertNever(event);
  }
}

function connectionLost(state: ImportState, silent: boolean): Step {
  switch (state.name) {
    case 'DISCON':
    case 'EVICTED':
    case 'CLOSED':
      return stay(state);
    case 'CONNECTING':
      return retryLater(state, retryMs(state.attempt));
    default:
      return {
        // A server whose connection broke may be back at once. The client tries a silent server after the others.
        state: {
          name: 'DISCON',
          epoch: state.epoch,
          attempt: silent ? 1 : 0,
          standing: standingOf(state),
        },
        effects: [{ do: 'closeGate' }, { do: 'retryAfter', ms: FIRST_RETRY_MS, epoch: state.epoch }],
      };
  }
}

/** The drain runs on its own: the connection may have broken, and come back, since it began. */
function drained(state: ImportState): Step {
  if (state.name === 'FULL') {
    return {
      state: { name: 'ACTIVE_LOCK', epoch: state.epoch },
      effects: [{ do: 'enqueueActive', epoch: state.epoch }],
    };
  }
  if ((state.name === 'DISCON' || state.name === 'CONNECTING') && state.standing === 'full') {
    return { state: { ...state, standing: 'waiting' }, effects: [] };
  }
  return stay(state);
}
