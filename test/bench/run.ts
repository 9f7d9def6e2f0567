/**
 * npm run bench: Holdfast beside other filesystems, each on a loop device of its own, the same work on each in turns. Both
 * sides of each are on this machine. Ratios are the point; absolute numbers belong to the machine.
 *   node dist/test/bench/run.js --help
 *
 * Exit status: 0 done, 1 failed, a goal that gates is missed or Holdfast failed in a row, 2 usage.
 */

import { writeFileSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { fileURLToPath } from 'node:url';
import { CommanderError } from 'commander';
import { CliError, describeFailure } from '../../src/cli/common.js';
import { verdictsOf } from './goals.js';
import { installPackages } from './install.js';
import { MAIN_ROWS, type Measured, measureMain, sizesOf } from './main_table.js';
import { type BenchOptions, benchCommand } from './options.js';
import { OWN_NAMES } from './own.js';
import { notInstalled, type Peer } from './peer.js';
import { ALL_PEERS } from './peers/all.js';
import { HOLDFAST, otherBuild } from './peers/holdfast.js';
import { figureLines, resultLines } from './report.js';
import { BenchSession } from './session.js';

const USAGE = 2;

function peersOf(options: BenchOptions): Peer[] {
  const others = ALL_PEERS.filter(({ name }) => options.peer.includes(name));
  const before = options.before === undefined ? [] : [otherBuild(options.before)];
  return [...others, ...before, HOLDFAST];
}

/** @throws CliError with exit status 2 if no row has such a name. */
function needRows({ filter, table }: BenchOptions): void {
  if (filter === undefined) return;
  const names = [...MAIN_ROWS.map(({ name }) => name), ...Object.values(OWN_NAMES)];
  if (table !== 'main' || names.some((name) => name.includes(filter))) return;
  throw new CliError(`no row has "${filter}" in its name`, USAGE);
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** @returns whether all that gates is as it must be. */
export function passes({ results, figures }: Pick<Measured, 'results' | 'figures'>): boolean {
  const missed = results.some((result) =>
    verdictsOf(result).some(({ goal, met }) => goal.gate && met === false),
  );
  const failed = results.some(({ cells }) =>
    cells.some(({ peer, failed }) => peer === HOLDFAST.name && failed !== undefined),
  );
  return !missed && !failed && figures.every(({ met }) => met);
}

async function bench(options: BenchOptions): Promise<void> {
  needRows(options);
  const peers = peersOf(options);
  if (options.install === true) {
    const packages = peers
      .filter((peer) => notInstalled(peer) !== undefined)
      .flatMap((peer) => peer.packages);
    if (packages.length > 0) await installPackages(packages);
  }
  const [machine, began] = [machineText(), performance.now()];
  const session = await BenchSession.open(sizesOf(options).part);
  let measured: Measured;
  try {
    measured = await measureMain(session, peers, options, (line) => say(`${clock(began)} ${line}`));
  } finally {
    for (const forced of await session.end()) say(`ended by force: ${forced}`);
  }
  const lines = [
    `${machine}, ${options.rounds} rounds, ${clock(began)}; both sides on this machine`,
    '',
    ...resultLines(measured.results, measured.peers),
    ...figureLines(measured.figures),
    ...measured.missing,
  ];
  const isOnStdout = options.json === '-';
  if (!isOnStdout) process.stdout.write(`${lines.join('\n')}\n`);
  if (options.json !== undefined) {
    const text = `${JSON.stringify({ machine, options, ...measured })}\n`;
    if (isOnStdout) process.stdout.write(text);
    else writeFileSync(options.json, text);
  }
  if (!passes(measured)) process.exitCode = 1;
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
