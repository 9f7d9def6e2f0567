/** The main table: every row on every peer, and the figures that only Holdfast has. */

import { describeFailure } from '../../src/cli/failure.js';
import { PeerContender } from './contender.js';
import type { Figure } from './figures.js';
import type { BenchOptions } from './options.js';
import { measureOwn, OWN_NAMES } from './own.js';
import { notInstalled, type Peer } from './peer.js';
import { HOLDFAST } from './peers/holdfast.js';
import { cannotCount } from './perf.js';
import type { Sizes } from './place.js';
import type { Interval } from './profile_shares.js';
import type { Row, RowResult } from './row.js';
import { BYTES_ROWS } from './rows/bytes.js';
import { NAMES_ROWS } from './rows/names.js';
import { PROGRAM_ROWS } from './rows/programs.js';
import { runRow, type Turns } from './runner.js';
import type { BenchSession } from './session.js';

const GIB = 2 ** 30;
const QUICK_PART = 0.1;

export const MAIN_ROWS: readonly Row[] = [...BYTES_ROWS, ...NAMES_ROWS, ...PROGRAM_ROWS];

export interface Measured {
  readonly results: readonly RowResult[];
  readonly figures: readonly Figure[];
  /** In the order of the columns. */
  readonly peers: readonly string[];
  /** When Holdfast's rows ran. */
  readonly ran: ReadonlyMap<string, readonly Interval[]>;
  /** What was not measured, and why. */
  readonly missing: readonly string[];
}

/** Peers that are installed, and a line for each that is not. */
export function presentPeers(peers: readonly Peer[]): {
  readonly present: Peer[];
  readonly missing: string[];
} {
  const present: Peer[] = [];
  const missing: string[] = [];
  for (const peer of peers) {
    const why = notInstalled(peer);
    if (why === undefined) present.push(peer);
    else missing.push(`${peer.name}: ${why}`);
  }
  return { present, missing };
}

export function turnsOf(session: BenchSession, options: BenchOptions): Turns {
  return {
    rounds: options.rounds,
    othersMax: options.others / 100,
    countSystemCalls: options.syscalls === true && cannotCount() === undefined,
    load: () => session.load(),
    check: () => session.check(),
  };
}

export function sizesOf({ size, quick }: BenchOptions): Sizes {
  const part = quick === true ? QUICK_PART : 1;
  return { fileMib: Math.max(1, Math.round(size * part)), part };
}

/** @param said gets a line of progress for each peer and each row. */
export async function measureRows(
  session: BenchSession,
  peers: readonly Peer[],
  rows: readonly Row[],
  options: BenchOptions,
  said: (line: string) => void,
): Promise<Omit<Measured, 'figures'>> {
  const { present, missing } = presentPeers(peers);
  const turns = turnsOf(session, options);
  if (!turns.countSystemCalls) missing.push(`system calls: ${cannotCount() ?? '--syscalls counts them'}`);
  const results: RowResult[] = [];
  const contenders: PeerContender[] = [];
  const deviceBytes = options.device * GIB;
  const sizes = sizesOf(options);
  session.needRoom(present.length * deviceBytes);
  for (const peer of present) {
    session.check();
    const { tool, sources } = session;
    const site = session.site(peer.name, deviceBytes);
    const contender = new PeerContender(peer, { site, tool, sources, sizes });
    try {
      await contender.start();
      contenders.push(contender);
      said(`${peer.name} runs`);
    } catch (thrown) {
      session.check();
      if (peer.name === HOLDFAST.name) throw thrown;
      missing.push(`${peer.name} does not start: ${describeFailure(thrown).line}`);
    }
  }
  for (const row of rows) {
    const result = await runRow(row, contenders, turns);
    results.push(result);
    const failures = result.cells.flatMap(({ peer, failed }) =>
      failed === undefined ? [] : [`${peer} failed: ${failed}`],
    );
    said([row.name, ...failures].join('; '));
  }
  for (const contender of contenders) await contender.stop();
  const ran = contenders.find(({ name }) => name === HOLDFAST.name)?.ran ?? new Map<string, Interval[]>();
  return { results, ran, peers: contenders.map(({ name }) => name), missing };
}

export async function measureMain(
  session: BenchSession,
  peers: readonly Peer[],
  options: BenchOptions,
  said: (line: string) => void,
): Promise<Measured> {
  const { filter = '', files, stream: streamGib } = options;
  const rows = MAIN_ROWS.filter(({ name }) => name.includes(filter));
  const nothing = { results: [], ran: new Map<string, Interval[]>(), peers: [], missing: [] };
  const measured = rows.length > 0 ? await measureRows(session, peers, rows, options, said) : nothing;
  if (!Object.values(OWN_NAMES).some((name) => name.includes(filter))) return { ...measured, figures: [] };
  const own = { files, streamGib, check: () => session.check() };
  const all = await measureOwn(session.site('own', 0), session.tool, own);
  return { ...measured, figures: all.filter(({ name }) => name.includes(filter)) };
}
