/**
 * npm run bench -- --table flood: what a client that floods the server leaves to another one.
 *   node dist/test/bench/flood.js [--only FLOOD] [--victim VICTIM] [--rounds 15] [--ms 200]
 *
 * A victim asks for one thing after the other, with a key of its own, while another process floods the server with another key:
 * thousands of requests a second, many at once. All processes share the processors of this machine, so a like process floods another
 * server of this machine in turn: whatever the victim lacks then is no fault of its server. The figure is its rate beside the flood
 * of its own server, as a part of its rate beside the flood of the other. The flooding processes have the lowest priority (nice 19).
 * The notes have the victim's rate alone, and what it has left of that.
 *
 * The three follow each other in short windows, round by round: the flooding processes are stopped and go on (SIGSTOP, SIGCONT). So
 * other load of the machine meets all three alike. The figure is the median of the rounds' ratios.
 */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { constants, loadavg, setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';
import { connectAdmin } from '../../src/cli/admin.js';
import { AccessAdd } from '../../src/wire/admin.js';
import { type BenchServer, BenchServers, type Host } from './bench_servers.js';
import { atLeast, type Figure, middle, option, printFigures, textOption } from './figures.js';
import { type Done, FLOODS, type Flood, type FloodTask, VICTIMS, type Victim } from './flood_tasks.js';

const SCRIPT = fileURLToPath(new URL('./flood_worker.js', import.meta.url));
const SHARE_GOAL = 0.5;

export interface FloodOptions {
  readonly rounds: number;
  /** Of a window. */
  readonly ms: number;
  readonly victims: readonly Victim[];
}

export const FLOOD_DEFAULTS: FloodOptions = { rounds: 15, ms: 200, victims: VICTIMS };
/** After a change: whatever is under way has an end. */
const SETTLE_MS = 30;

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

class Worker {
  readonly #child: ChildProcess;
  readonly #ended: Promise<never>;

  constructor(task: FloodTask) {
    this.#child = fork(SCRIPT, [JSON.stringify(task)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#ended = once(this.#child, 'exit').then(() => {
      throw new Error('a process of the bench has ended');
    });
    this.#ended.catch(() => undefined);
    if (task.flood !== undefined) setPriority(this.#child.pid ?? 0, constants.priority.PRIORITY_LOW);
  }

  async ready(): Promise<void> {
    await this.#answer();
  }

  async #answer(): Promise<unknown> {
    const [answer] = await Promise.race([once(this.#child, 'message'), this.#ended]);
    return answer;
  }

  async count(): Promise<Done> {
    const answer = this.#answer();
    this.#child.send('count');
    return (await answer) as Done;
  }

  /** Requests a second. */
  async rate(ms: number): Promise<number> {
    const before = await this.count();
    const beganMs = performance.now();
    await sleep(ms);
    const { requests } = await this.count();
    return ((requests - before.requests) * 1000) / (performance.now() - beganMs);
  }

  stop(): void {
    this.#child.kill('SIGSTOP');
  }

  goOn(): void {
    this.#child.kill('SIGCONT');
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.goOn();
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    await ended;
  }
}

interface Place {
  readonly host: Host;
  readonly server: BenchServer;
}

async function serve(servers: BenchServers): Promise<Place> {
  const host = servers.host(0);
  const server = servers.start(host);
  await server.ready();
  const admin = await connectAdmin(host.address);
  for (const name of ['flood', 'victim']) {
    const rights = { readOnly: false, squashRoot: false, admin: false, from: [], limits: {} };
    await admin.requester.call(AccessAdd, { name, kind: 'key', ...rights });
  }
  admin.close();
  return { host, server };
}

async function withWorkers<T>(
  tasks: readonly FloodTask[],
  run: (workers: readonly Worker[]) => Promise<T>,
): Promise<T> {
  const workers: Worker[] = [];
  try {
    for (const task of tasks) {
      const worker = new Worker(task);
      workers.push(worker);
      await worker.ready();
      // Compilers have done most of their work, then it is the turn of the next.
      await sleep(500);
      if (task.flood !== undefined) worker.stop();
    }
    return await run(workers);
  } finally {
    for (const worker of workers) await worker.end();
  }
}

async function measure(
  flood: Flood,
  victim: Victim,
  here: Place,
  there: Place,
  options: FloodOptions,
): Promise<Figure> {
  const at = ({ host }: Place): FloodTask => ({
    address: host.address,
    access: 'flood',
    name: 'flood',
    flood,
  });
  const suffers = { address: here.host.address, access: 'victim', name: 'victim', victim };
  return await withWorkers([suffers, at(here), at(there)], async ([victimOf, floods, other]) => {
    if (victimOf === undefined || floods === undefined || other === undefined)
      throw new Error('three workers');
    const rounds: { readonly alone: number; readonly here: number; readonly elsewhere: number }[] = [];
    const during = async (flooding: Worker): Promise<number> => {
      flooding.goOn();
      await sleep(SETTLE_MS);
      const rate = await victimOf.rate(options.ms);
      flooding.stop();
      await sleep(SETTLE_MS);
      return rate;
    };
    const beganMs = performance.now();
    for (let round = 0; round < options.rounds; round += 1) {
      const alone = await victimOf.rate(options.ms);
      rounds.push({ alone, here: await during(floods), elsewhere: await during(other) });
    }
    const floodMs = performance.now() - beganMs;
    floods.goOn();
    const { requests, failed } = await floods.count();
    type At = keyof (typeof rounds)[number];
    const share = (of: At, by: At): number => middle(rounds.map((round) => round[of] / round[by]));
    const note = [
      `${Math.round(middle(rounds.map(({ alone }) => alone)))}/s alone`,
      `of that ${share('here', 'alone').toFixed(2)}, ${share('elsewhere', 'alone').toFixed(2)} beside the other`,
      `flood ${Math.round((requests * 3000) / floodMs)}/s${failed > 0 ? `, ${failed} refused` : ''}`,
    ].join('; ');
    return atLeast(
      `${victim} under a flood of ${flood}`,
      'ratio',
      share('here', 'elsewhere'),
      SHARE_GOAL,
      note,
    );
  });
}

/** @param parts which floods, in this order. */
export async function measureFloods(
  parts: readonly Flood[],
  options: FloodOptions = FLOOD_DEFAULTS,
  said: (line: string) => void = () => undefined,
): Promise<Figure[]> {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
  const [first, second] = [await BenchServers.make(), await BenchServers.make()];
  try {
    const [here, there] = [await serve(first), await serve(second)];
    const figures: Figure[] = [];
    for (const flood of parts) {
      for (const victim of options.victims) {
        const figure = await measure(flood, victim, here, there, options);
        said(`${figure.name}: ${figure.holdfast.toFixed(2)} (${figure.note})`);
        figures.push(figure);
      }
    }
    return figures;
  } finally {
    await first.end();
    await second.end();
  }
}

async function bench(): Promise<void> {
  const [only, victim] = [textOption('only'), textOption('victim')];
  const options: FloodOptions = {
    rounds: option('rounds', FLOOD_DEFAULTS.rounds),
    ms: option('ms', FLOOD_DEFAULTS.ms),
    victims: VICTIMS.filter((name) => victim === undefined || name === victim),
  };
  const parts = FLOODS.filter((name) => only === undefined || name === only);
  const figures = await measureFloods(parts, options, (line) => process.stderr.write(`${line}\n`));
  printFigures(figures, options, `load ${loadavg()[0]?.toFixed(1)}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bench();
