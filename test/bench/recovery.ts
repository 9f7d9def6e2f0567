/**
 * npm run bench:recovery: how long a stop lasts for those who use the filesystem, and what commit on sharing costs.
 *   node dist/test/bench/recovery.js [--json] [--clients 100] [--opens 10000] [--upgrade-opens 100000] [--down SECONDS]
 *     [--period SECONDS] [--times N] [--only crash|upgrade|failover|sharing]
 * Servers are real processes on loop devices, clients real ones over TCP in two processes, without mounts. Times
 * are those of the clock on the wall, of one run each (pauses after a clean stop and rates: the median); the processor time beside them does not
 * depend on what else the machine does.
 */

import { loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Address } from '../../src/runtime/ports.js';
import { type BenchServer, BenchServers, statusOf } from './bench_servers.js';
import { ClientPool } from './client_pool.js';
import { monotonicMs } from './client_worker.js';
import { atLeast, atMost, type Figure, middle, option, printFigures, textOption } from './figures.js';

export interface Options {
  readonly clients: number;
  readonly opens: number;
  readonly upgradeOpens: number;
  /** How long the server is away: clients ask the less often, the longer it is. */
  readonly downS: number;
  readonly periodS: number;
  readonly times: number;
}

const CRASH_GOAL_MS = 2000;
const UPGRADE_GOAL_MS = 2000;
const CLEAN_GOAL_MS = 300;
const KILLED_GOAL_MS = 2000;
const SHARING_GOAL = 0.5;
/** Of one create: callback, cancel, commit and grant are in it. */
const TURN_GOAL_MS = 8;
const ALTERNATING_STEPS = 400;
/** Of each ten files, so many have content that is written. */
const WRITTEN = 0.1;
const FAILOVER_CLIENTS = 4;
const FAILOVER_OPENS = 100;
const RATE_MS = 3000;

function seconds(count: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, count * 1000));
}

/** Everything of a measurement, ended whatever becomes of it. */
async function withTarget<T>(
  hosts: number,
  run: (
    servers: BenchServers,
    pool: (addresses: readonly Address[], clients: number) => Promise<ClientPool>,
  ) => Promise<T>,
): Promise<T> {
  const servers = await BenchServers.make(hosts);
  let pool: ClientPool | undefined;
  try {
    return await run(servers, async (addresses, clients) => {
      pool = await ClientPool.start(addresses, clients);
      return pool;
    });
  } finally {
    await pool?.end();
    await servers.end();
  }
}

async function endInOrder(pool: ClientPool, server: BenchServer): Promise<void> {
  await pool.unmount();
  await server.stop();
}

/** @param uncommitted of the opens, so many are creates that are answered and not durable. */
async function crash(options: Options, uncommitted: number): Promise<Figure[]> {
  const { clients, opens } = options;
  return await withTarget(1, async (servers, connect) => {
    const host = servers.host(0);
    const first = servers.start(host);
    await first.ready();
    const pool = await connect([host.address], clients);
    const durable = Math.floor((opens - uncommitted) / clients);
    await pool.open(durable, Math.floor(durable * WRITTEN));
    await pool.sync();
    await first.hold();
    const lost = Math.floor(uncommitted / clients);
    await pool.open(lost, Math.floor(lost * WRITTEN));
    await first.kill();
    await seconds(options.downS);
    const clientsMs = await pool.processorMs();
    const second = servers.start(host);
    const ready = await second.ready();
    const readyUsedMs = Math.round(second.processorMs());
    const fullMs = await pool.full(ready.instance);
    const used = [second.processorMs(), (await pool.processorMs()) - clientsMs].map(Math.round);
    const { recovery, evicted } = await statusOf(host);
    await pool.check((durable + lost) * clients);
    if (evicted.length > 0 || recovery === undefined || recovery.replayed < lost * clients) {
      throw new Error(`${evicted.length} evicted, replayed ${recovery?.replayed} of ${lost * clients}`);
    }
    await endInOrder(pool, second);
    const what = `crash, ${clients} clients, ${opens} opens, ${recovery.replayed} replays`;
    const note = `processor: server ${used[0]} ms (${readyUsedMs} when ready), clients ${used[1]} ms; window ${recovery.tookMs} ms`;
    return [
      atMost(`${what}: from start`, 'ms', fullMs - second.startedMs, CRASH_GOAL_MS, note),
      atMost('  from its ready line', 'ms', fullMs - ready.atMs, CRASH_GOAL_MS),
    ];
  });
}

async function upgrade({ clients, upgradeOpens }: Options): Promise<Figure[]> {
  return await withTarget(1, async (servers, connect) => {
    const host = servers.host(0);
    const first = servers.start(host);
    await first.ready();
    const pool = await connect([host.address], clients);
    const each = Math.floor(upgradeOpens / clients);
    await pool.open(each, 1);
    const second = servers.start(host, ['--standby']);
    await second.standingBy();
    const before = { server: second.processorMs(), clients: await pool.processorMs() };
    const beganMs = monotonicMs();
    const [ready] = await Promise.all([second.ready(), first.stop()]);
    const fullMs = await pool.full(ready.instance);
    const serverMs = Math.round(second.processorMs() - before.server);
    const clientsMs = Math.round((await pool.processorMs()) - before.clients);
    const readyMs = Math.round(ready.atMs - beganMs);
    const note = `processor: new server ${serverMs} ms, clients ${clientsMs} ms; ready after ${readyMs} ms`;
    await pool.check(each * clients);
    await endInOrder(pool, second);
    const what = `clean upgrade, ${clients} clients, ${each * clients} opens`;
    return [atMost(what, 'ms', fullMs - beganMs, UPGRADE_GOAL_MS, note)];
  });
}

/** The longest that an operation took while a partner took over, seen by clients that do not stop. */
async function failover({ periodS, times }: Options): Promise<Figure[]> {
  return await withTarget(2, async (servers, connect) => {
    const [a, b] = [servers.host(0), servers.host(1)];
    const period = ['--heartbeat-period', String(periodS)];
    let active = servers.start(a, period);
    await active.ready();
    const pool = await connect([a.address, b.address], FAILOVER_CLIENTS);
    await pool.open(FAILOVER_OPENS, FAILOVER_OPENS * WRITTEN);
    const pause = async (to: typeof a, stop: (server: BenchServer) => Promise<void>): Promise<number> => {
      const standby = servers.start(to, ['--standby', ...period]);
      await standby.standingBy();
      await pool.work();
      await seconds(1);
      await stop(active);
      const { instance } = await standby.ready();
      await pool.full(instance);
      active = standby;
      // Whatever waited has ended by then: each client goes on to the end of an operation of its own.
      await seconds(0.5);
      return (await pool.stop()).longestMs;
    };
    const clean: number[] = [];
    for (let time = 0; time < times; time++) {
      clean.push(await pause(time % 2 === 0 ? b : a, (server) => server.stop()));
    }
    const killedMs = await pause(times % 2 === 0 ? b : a, (server) => server.kill());
    await endInOrder(pool, active);
    const limitMs = periodS * 1000 + KILLED_GOAL_MS;
    return [
      atMost(
        'failover after a clean stop: pause',
        'ms',
        middle(clean),
        CLEAN_GOAL_MS,
        `${Math.min(...clean).toFixed(0)} to ${Math.max(...clean).toFixed(0)} ms`,
      ),
      atMost(`failover after SIGKILL, period ${periodS} s: pause`, 'ms', killedMs, limitMs),
    ];
  });
}

/** Two clients that create and close files, in one folder and each in its own. */
async function sharing({ times }: Options): Promise<Figure[]> {
  return await withTarget(1, async (servers, connect) => {
    const host = servers.host(0);
    const server = servers.start(host);
    await server.ready();
    const pool = await connect([host.address], 2);
    const rate = async (): Promise<number> => {
      await pool.work();
      await seconds(RATE_MS / 1000);
      const { done } = await pool.stop();
      return done.reduce((sum, count) => sum + count, 0) / (RATE_MS / 1000);
    };
    const apart: number[] = [];
    const together: number[] = [];
    await rate();
    for (let time = 0; time < times; time++) {
      await pool.home();
      apart.push(await rate());
      await pool.home('shared');
      together.push(await rate());
    }
    const alternating: number[] = [];
    for (let step = 0; step < ALTERNATING_STEPS; step++) alternating.push(await pool.step(step % 2));
    await endInOrder(pool, server);
    const share = middle(together.map((each, at) => each / (apart[at] ?? 1)));
    const note = `${middle(together).toFixed(0)}/s in one directory, ${middle(apart).toFixed(0)}/s in two`;
    return [
      atLeast('creates of two clients, one directory : two', '', share, SHARING_GOAL, note),
      atMost(
        'creates that alternate between two clients, one directory',
        'ms',
        middle(alternating),
        TURN_GOAL_MS,
      ),
    ];
  });
}

export const RECOVERY_PARTS = ['crash', 'upgrade', 'failover', 'sharing'] as const;

/** As the documentation has them. */
export const RECOVERY_DEFAULTS: Options = {
  clients: 100,
  opens: 10_000,
  upgradeOpens: 100_000,
  downS: 5,
  periodS: 5,
  times: 3,
};

/** @param parts which of them, in this order. */
export async function measureRecovery(
  parts: readonly (typeof RECOVERY_PARTS)[number][],
  options: Options = RECOVERY_DEFAULTS,
): Promise<Figure[]> {
  const measures: Readonly<Record<(typeof RECOVERY_PARTS)[number], () => Promise<Figure[]>>> = {
    // What a crash takes with it is milliseconds; the worst is that nothing was durable at all.
    crash: async () => [
      ...(await crash(options, options.opens / 10)),
      ...(await crash(options, options.opens)),
    ],
    upgrade: () => upgrade(options),
    failover: () => failover(options),
    sharing: () => sharing(options),
  };
  // The handlers of 'exit' end what runs.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
  const figures: Figure[] = [];
  for (const part of parts) figures.push(...(await measures[part]()));
  return figures;
}

async function bench(): Promise<void> {
  const defaults = RECOVERY_DEFAULTS;
  const options: Options = {
    clients: option('clients', defaults.clients),
    opens: option('opens', defaults.opens),
    upgradeOpens: option('upgrade-opens', defaults.upgradeOpens),
    downS: option('down', defaults.downS),
    periodS: option('period', defaults.periodS),
    times: option('times', defaults.times),
  };
  const only = textOption('only');
  const figures = await measureRecovery(
    RECOVERY_PARTS.filter((part) => only === undefined || only === part),
    options,
  );
  const load = loadavg()[0]?.toFixed(1);
  printFigures(figures, options, `${options.clients} clients in two processes, load ${load}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bench();
