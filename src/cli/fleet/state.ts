/**
 * What a fleet command remembers between its runs: which versions there were before, for a rollback, and what was done, for people.
 * What is done is always seen on the hosts; the file is not believed. It is written by rename, so it is whole at every moment.
 *
 * One command at a time changes a fleet: the name of a socket in the kernel is its lock. So the lock ends with its process. It holds on
 * this machine and in this network namespace.
 */

import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { createConnection, createServer, type Server } from 'node:net';
import { resolve } from 'node:path';
import { CliError } from '../failure.js';

const FORMAT = 1;
const DONE_MAX = 1000;
const PAUSES_MAX = 200;

export type Doing = 'upgrade' | 'rollback';
export type Progress = 'running' | 'paused' | 'aborted' | 'failed' | 'done';

export interface SeenPause {
  /** Whose programs waited. */
  readonly client: string;
  readonly ms: number;
  /** `takeover`, or the target whose server changed. */
  readonly why: string;
}

export interface FleetState {
  readonly format: number;
  readonly doing: Doing;
  readonly progress: Progress;
  /** Of the upgrade, also during its rollback. */
  readonly to: string;
  /** By the keys of units: the version before the upgrade. */
  readonly from: Readonly<Record<string, string>>;
  readonly began: string;
  /** Keys of the steps that are under way, or were when the command was killed. */
  readonly underWay: readonly string[];
  readonly done: readonly { readonly at: string; readonly text: string; readonly ms: number }[];
  readonly pauses: readonly SeenPause[];
  readonly failure?: string | undefined;
  /** What was left to do when the command that runs, or ran last, began. Absent: it was of an earlier version. */
  readonly plan?: { readonly at: string; readonly steps: readonly PlannedStep[] };
  /** The steps of underWay, for people. Absent: the command is of an earlier version. */
  readonly begun?: readonly BegunStep[];
}

export interface PlannedStep {
  readonly group: string;
  readonly text: string;
}

export interface BegunStep {
  readonly key: string;
  readonly at: string;
  readonly text: string;
}

export function beginState(
  doing: Doing,
  to: string,
  from: Readonly<Record<string, string>>,
  now: string,
): FleetState {
  return {
    format: FORMAT,
    doing,
    progress: 'running',
    to,
    from,
    began: now,
    underWay: [],
    done: [],
    pauses: [],
  };
}

/**
 * What an upgrade goes on from. @throws CliError if another one is unfinished.
 * @param seen versions of all units that run now.
 */
export function stateForUpgrade(
  before: FleetState | undefined,
  to: string,
  seen: Readonly<Record<string, string>>,
  now: string,
): FleetState {
  if (before === undefined || before.progress === 'done') return beginState('upgrade', to, seen, now);
  if (before.to !== to) {
    throw new CliError(
      `the ${before.doing} ${before.doing === 'upgrade' ? 'to' : 'from'} ${before.to} is unfinished (${before.progress}): ` +
        `go on with "upgrade --to ${before.to}", or with "rollback"`,
    );
  }
  const { failure: _failure, ...kept } = before;
  // Units that were not there at the beginning have a version to go back to as well.
  return { ...kept, doing: 'upgrade', progress: 'running', from: { ...seen, ...before.from } };
}

/** @throws CliError if there is nothing to go back from. */
export function stateForRollback(before: FleetState | undefined): FleetState {
  if (before === undefined)
    throw new CliError('no upgrade of this fleet is known, so there is nothing to go back from');
  if (before.doing === 'rollback' && before.progress === 'done')
    throw new CliError(`the rollback from ${before.to} is done already`);
  const { failure: _failure, ...kept } = before;
  return { ...kept, doing: 'rollback', progress: 'running' };
}

export function withBegun(state: FleetState, step: BegunStep): FleetState {
  const { key } = step;
  return {
    ...state,
    underWay: [...state.underWay.filter((one) => one !== key), key],
    begun: [...(state.begun ?? []).filter((one) => one.key !== key), step],
  };
}

export function withDone(
  state: FleetState,
  key: string,
  { at, text, ms }: FleetState['done'][number],
): FleetState {
  return {
    ...state,
    underWay: state.underWay.filter((one) => one !== key),
    begun: (state.begun ?? []).filter((one) => one.key !== key),
    done: [...state.done, { at, text, ms }].slice(-DONE_MAX),
  };
}

export function withPauses(state: FleetState, more: readonly SeenPause[]): FleetState {
  const all = [...state.pauses, ...more];
  // The longest ones, in their order.
  const kept = all.toSorted((a, b) => b.ms - a.ms).slice(0, PAUSES_MAX);
  return { ...state, pauses: all.filter((one) => kept.includes(one)) };
}

export function longestPause({ pauses }: Pick<FleetState, 'pauses'>): SeenPause | undefined {
  return pauses.reduce<SeenPause | undefined>(
    (most, one) => (most === undefined || one.ms > most.ms ? one : most),
    undefined,
  );
}

/** @throws CliError for a file that is no state of ours. */
export function readState(path: string): FleetState | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const state = JSON.parse(readFileSync(path, 'utf8')) as FleetState;
    if (state.format !== FORMAT)
      throw new Error(`it has format ${state.format}, and this version knows ${FORMAT}`);
    return state;
  } catch (cause) {
    throw new CliError(
      `${path} is no state of a fleet: ${(cause as Error).message}; move it away to begin anew`,
      1,
      {
        cause,
      },
    );
  }
}

export function writeState(path: string, state: FleetState): void {
  const made = `${path}.${process.pid}`;
  const file = openSync(made, 'w', 0o600);
  try {
    writeSync(file, `${JSON.stringify(state, null, 2)}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(made, path);
}

export type Ask = 'pause' | 'abort';

/** Beside the state. */
function askPath(statePath: string): string {
  return `${statePath}.ask`;
}

export function ask(statePath: string, what: Ask | undefined): void {
  const path = askPath(statePath);
  if (what === undefined) {
    rmSync(path, { force: true });
    return;
  }
  const made = `${path}.${process.pid}`;
  const file = openSync(made, 'w', 0o600);
  writeSync(file, `${what}\n`);
  closeSync(file);
  renameSync(made, path);
}

export function asked(statePath: string): Ask | undefined {
  const path = askPath(statePath);
  if (!existsSync(path)) return undefined;
  const text = readFileSync(path, 'utf8').trim();
  return text === 'pause' || text === 'abort' ? text : undefined;
}

/** An abstract name: it is in no folder, and the kernel takes it back with the process. */
function lockName(statePath: string): string {
  const digest = createHash('sha256').update(resolve(statePath)).digest('hex').slice(0, 32);
  return `\0holdfast-fleet-${digest}`;
}

/** Whether a command has the lock just now. */
export function isLocked(statePath: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = createConnection(lockName(statePath));
    socket.once('connect', () => {
      socket.destroy();
      done(true);
    });
    socket.once('error', () => done(false));
  });
}

/** @returns undefined if another command has it. */
export function tryLock(statePath: string): Promise<Server | undefined> {
  const server = createServer((socket) => socket.destroy());
  return new Promise((done, failed) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') done(undefined);
      else failed(error);
    });
    server.listen(lockName(statePath), () => {
      server.unref();
      done(server);
    });
  });
}
