/**
 * What a fleet command remembers between its runs: which versions there were before, for a rollback, and what was done, for people.
 * What is done is always seen on the hosts; the file is not believed. It is written by rename, so it is whole at every moment, and the
 * folder is flushed too: if the versions before the upgrade were lost with a crash of this machine, nothing would be left to go back to.
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
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createConnection, createServer, type Server } from 'node:net';
import { basename, dirname, join, resolve } from 'node:path';
import { CliError } from '../failure.js';
import { isTable, isVersion } from './decode.js';
import { plainVersion } from './facts.js';

const FORMAT = 1;
const DONE_MAX = 1000;
const PAUSES_MAX = 200;

export type Doing = 'upgrade' | 'rollback';
const PROGRESSES = ['running', 'paused', 'aborted', 'failed', 'done'] as const;
export type Progress = (typeof PROGRESSES)[number];

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

/**
 * @param known keys of the units that the fleet's file has now.
 * @returns for people: how the file and what was remembered differ. @throws CliError: they have nothing in common.
 */
export function editedSince(state: FleetState, known: readonly string[], path: string): readonly string[] {
  const before = Object.keys(state.from);
  const gone = before.filter((key) => !known.includes(key));
  if (gone.length > 0 && gone.length === before.length)
    throw new CliError(
      `${path} is of another fleet: of its servers and clients this file has none; name another state, or move it away`,
    );
  const added = known.filter((key) => !before.includes(key));
  return [
    ...gone.map((key) => `${key} is not in the file any more, and stays as it is`),
    ...(state.doing === 'rollback' ? added : []).map(
      (key) => `${key} had no version that is known when the upgrade began, and stays as it is`,
    ),
  ];
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
    return decodeState(JSON.parse(readFileSync(path, 'utf8')));
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

/** @throws Error: it is no state. */
function decodeState(value: unknown): FleetState {
  if (!isTable(value)) throw new Error('it is no object');
  if (value.format !== FORMAT)
    throw new Error(`it has format ${value.format}, and this version knows ${FORMAT}`);
  const { doing, progress, to, from, began, underWay, done, pauses } = value;
  const isWhole =
    (doing === 'upgrade' || doing === 'rollback') &&
    PROGRESSES.some((one) => one === progress) &&
    isVersion(to) &&
    isTable(from) &&
    Object.values(from).every(isVersion) &&
    typeof began === 'string' &&
    Array.isArray(underWay) &&
    Array.isArray(done) &&
    Array.isArray(pauses);
  if (!isWhole) throw new Error('a part of it is missing or makes no sense');
  return value as unknown as FleetState;
}

/**
 * Only for whoever has the lock: there is one name for the file that is about to become the state.
 * @throws CliError: the folder cannot be written, or is full. The state is as it was.
 */
export function writeState(path: string, state: FleetState): void {
  const made = `${path}.new`;
  try {
    replace(made, path, `${JSON.stringify(state, null, 2)}\n`);
  } catch (cause) {
    rmSync(made, { force: true });
    throw new CliError(`the state ${path} cannot be written: ${(cause as Error).message}`, 1, { cause });
  }
}

function replace(made: string, path: string, text: string): void {
  const file = openSync(made, 'w', 0o600);
  try {
    writeFileSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(made, path);
  const folder = openSync(dirname(path), 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
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
  // No rename: a word that is not whole yet says nothing, and is read again.
  writeFileSync(path, `${what}\n`, { mode: 0o600 });
}

export function asked(statePath: string): Ask | undefined {
  const path = askPath(statePath);
  if (!existsSync(path)) return undefined;
  const text = readFileSync(path, 'utf8').trim();
  return text === 'pause' || text === 'abort' ? text : undefined;
}

/** An abstract name: it is in no folder, and the kernel takes it back with the process. */
function lockName(statePath: string): string {
  // The same file has one lock, by whatever links its folder is reached.
  const folder = dirname(resolve(statePath));
  const real = existsSync(folder) ? realpathSync(folder) : folder;
  const digest = createHash('sha256')
    .update(join(real, basename(statePath)))
    .digest('hex')
    .slice(0, 32);
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

/** Versions whose program may look at the hosts: the new one, and those before, because the new one may be broken. */
export function lookers(state: FleetState | undefined, to: string): readonly string[] {
  const before = state === undefined ? [] : Object.values(state.from);
  // On the way back the versions before are the ones that have to be there.
  const all = state?.doing === 'rollback' ? [...before, to] : [to, ...before];
  return [...new Set(all.map(plainVersion))];
}
