/** Asks the process in charge of a mount to hand it over, and how that process starts the next one. */

import type { Level } from '../base/notices.js';
import { clientProgram } from './client_program.js';
import { askControl, mountpointPath, nobodyServes } from './control.js';

const PATIENCE_MS = 30_000;

/** What the process that was in charge answers. */
export interface TakenOver {
  readonly pid: number;
  readonly version: string;
  readonly versionBefore: string;
  readonly drainMs: number;
  readonly waitedMs: number;
  readonly silentMs: number;
}

export interface TakeoverWish {
  /** Root of the tree whose version takes over; absent: the one that this command runs from. */
  readonly tree?: string | undefined;
  /** Mount options from then on; absent: those of now. */
  readonly options?: string | undefined;
  readonly patienceMs?: number | undefined;
}

/**
 * The words behind the program's own, of a process that serves a mount which is there. Frozen: a process of any version starts one of
 * any other with them. A version that does not know --take-over or --after-death refuses it.
 */
export function goOnArguments(
  how: '--take-over' | '--after-death',
  { source, options, level }: { readonly source: string; readonly options: string; readonly level: Level },
  mountpoint: string,
): string[] {
  const words = options.split(',').filter((word) => word !== '' && word !== 'takeover');
  const given = words.length > 0 ? ['-o', words.join(',')] : [];
  return ['mount', how, '--log-level', level, ...given, source, mountpoint];
}

/** @throws CliError, FsError: the mount stays as it is. */
export async function requestTakeover(path: string, wish: TakeoverWish): Promise<TakenOver> {
  const mountpoint = mountpointPath(path);
  const answer = await askControl(mountpoint, {
    command: 'takeover',
    program: clientProgram(wish.tree),
    options: wish.options,
    patienceMs: wish.patienceMs ?? PATIENCE_MS,
  });
  if (answer === undefined) throw nobodyServes(path, 'is not a mount of Holdfast');
  return answer.data as TakenOver;
}
