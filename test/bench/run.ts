/**
 * npm run bench: Holdfast beside other filesystems, each on a loop device of its own, the same work on each in turns. Both
 * sides of each are on this machine. Ratios are the point; absolute numbers belong to the machine.
 *   node dist/test/bench/run.js --help
 *
 * Exit status: 0 done, 1 failed, a goal that gates is missed or Holdfast failed in a row, 2 usage.
 */

import { writeFileSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommanderError } from 'commander';
import { CliError, describeFailure } from '../../src/cli/failure.js';
import { drawProfiles } from './flame.js';
import { measureFloods } from './flood.js';
import { FLOODS } from './flood_tasks.js';
import { verdictsOf } from './goals.js';
import { growthRows } from './growth.js';
import { installPackages } from './install.js';
import { MAIN_ROWS, type Measured, measureMain, measureRows, sizesOf } from './main_table.js';
import { pageOf, profilePage, writePage } from './markdown.js';
import { type BenchOptions, benchCommand } from './options.js';
import { OWN_NAMES } from './own.js';
import { notInstalled, type Peer } from './peer.js';
import { ALL_PEERS } from './peers/all.js';
import { HOLDFAST, otherBuild, profiled } from './peers/holdfast.js';
import { shareLines } from './profile_shares.js';
import { measureRecovery, RECOVERY_PARTS } from './recovery.js';
import { figureLines, resultLines } from './report.js';
import { BenchSession } from './session.js';
import { measureTrust, TRUST_PARTS } from './trust.js';

const USAGE = 2;

function peersOf(options: BenchOptions): Peer[] {
  const others = ALL_PEERS.filter(({ name }) => options.peer.includes(name));
  const before = options.before === undefined ? [] : [otherBuild(options.before)];
  return [
    ...others,
    ...before,
    options.profile === undefined ? HOLDFAST : profiled(resolve(options.profile)),
  ];
}

/** Names that --filter looks at. */
function namesOf({ table, growthMax }: BenchOptions): string[] {
  if (table === 'pauses') return [...RECOVERY_PARTS];
  if (table === 'flood') return [...FLOODS];
  if (table === 'trust') return [...TRUST_PARTS];
  if (table === 'growth') return growthRows(growthMax).map(({ name }) => name);
  return [...MAIN_ROWS.map(({ name }) => name), ...Object.values(OWN_NAMES)];
}

/** @throws CliError with exit status 2 if the options make no sense together. */
function judgeOptions(options: BenchOptions): void {
  const { filter } = options;
  if (filter !== undefined && !namesOf(options).some((name) => name.includes(filter)))
    throw new CliError(`no row has "${filter}" in its name`, USAGE);
  if (options.markdown === true && (filter !== undefined || options.quick === true))
    throw new CliError('--markdown writes whole tables: leave out --filter and --quick', USAGE);
  if (options.profile !== undefined && options.table !== 'main')
    throw new CliError('--profile is for the main table', USAGE);
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Minutes and seconds since then. */
function clock(began: number): string {
  const seconds = Math.round((performance.now() - began) / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}

function machineText(): string {
  const load = (loadavg()[0] ?? 0).toFixed(1);
  return `${cpus().length} processors, Linux ${release()}, Node ${process.version}, load before ${load}`;
}

async function measure(options: BenchOptions, peers: readonly Peer[], began: number): Promise<Measured> {
  const { filter = '', table } = options;
  if (table === 'pauses') {
    const parts = RECOVERY_PARTS.filter((part) => part.includes(filter));
    return { results: [], ran: new Map(), figures: await measureRecovery(parts), peers: [], missing: [] };
  }
  const said = (line: string): void => say(`${clock(began)} ${line}`);
  if (table === 'flood') {
    const floods = FLOODS.filter((flood) => flood.includes(filter));
    const figures = await measureFloods(floods, undefined, said);
    return { results: [], ran: new Map(), figures, peers: [], missing: [] };
  }
  if (table === 'trust') {
    const parts = TRUST_PARTS.filter((part) => part.includes(filter));
    const figures = await measureTrust(parts, options, said);
    return { results: [], ran: new Map(), figures, peers: [], missing: [] };
  }
  const session = await BenchSession.open(sizesOf(options).part);
  try {
    if (table === 'main') return await measureMain(session, peers, options, said);
    const rows = growthRows(options.growthMax).filter(({ name }) => name.includes(filter));
    return { ...(await measureRows(session, peers, rows, options, said)), figures: [] };
  } catch (thrown) {
    // If the user has ended the bench, that is the reason.
    session.check();
    throw thrown;
  } finally {
    for (const forced of await session.end()) say(`ended by force: ${forced}`);
  }
}

/** @returns whether all that gates is as it must be. */
export function passes({ results, figures }: Pick<Measured, 'results' | 'figures'>): boolean {
  const missed = results.some((result) =>
    verdictsOf(result).some(({ goal, met }) => goal.gate === true && met === false),
  );
  const failed = results.some(({ cells }) =>
    cells.some((cell) => cell.peer === HOLDFAST.name && cell.failed !== undefined),
  );
  return !missed && !failed && figures.every(({ met }) => met);
}

/** Prints what the profiles say about each row; of one row, draws flame graphs. */
function showProfiles({ profile = '', filter, markdown }: BenchOptions, { ran }: Measured): void {
  const folder = resolve(profile);
  const lines = shareLines(folder, ran);
  for (const line of lines) say(line.join('; '));
  if (markdown === true) writePage('profile', profilePage(lines));
  if (filter === undefined) return;
  for (const side of ['server', 'client']) {
    const svg = drawProfiles(folder, side, filter);
    if (svg !== undefined) say(`flame graph: ${svg}`);
  }
}

async function bench(options: BenchOptions): Promise<void> {
  judgeOptions(options);
  const peers = peersOf(options);
  if (options.install === true) {
    const packages = peers
      .filter((peer) => notInstalled(peer) !== undefined)
      .flatMap((peer) => peer.packages);
    if (packages.length > 0) await installPackages(packages);
  }
  const [machine, began] = [machineText(), performance.now()];
  const measured = await measure(options, peers, began);
  const about = `${machine}, ${options.rounds} rounds, ${clock(began)} minutes; both sides on this machine`;
  if (options.json !== '-') {
    const tables = [...resultLines(measured.results, measured.peers), ...figureLines(measured.figures)];
    process.stdout.write(`${[about, '', ...tables, ...measured.missing].join('\n')}\n`);
  }
  if (options.json !== undefined) {
    const { ran: _, ...figures } = measured;
    const text = `${JSON.stringify({ machine, options, ...figures })}\n`;
    if (options.json === '-') process.stdout.write(text);
    else writeFileSync(options.json, text);
  }
  if (options.profile !== undefined) showProfiles(options, measured);
  // Profiles make everything slower: no figures for the page.
  else if (options.markdown === true) writePage(options.table, pageOf(options.table, about, measured));
  if (!passes(measured)) process.exitCode = 1;
}

/** @param argv as process.argv. @returns the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    await benchCommand(bench).parseAsync([...argv]);
    return Number(process.exitCode ?? 0);
  } catch (thrown) {
    // commander has printed the error; help is no failure.
    if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? 0 : USAGE;
    const { line, exitCode } = describeFailure(thrown);
    process.stderr.write(`bench: ${line}\n`);
    return exitCode;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv);
