/**
 * What goes wrong in a random run, and when. A run takes some of the kinds only (a swarm): rare combinations come up that a
 * mixture of everything would hide.
 *
 * Everything that was broken works again at the end; a server that is down is started, and a client that was killed is
 * mounted, so that the run can end.
 */

import { FsError } from '../../src/base/errno.js';
import type { ShutdownEnd } from '../../src/server/lifecycle/state.js';
import type { ClientNode } from './client_node.js';
import { checkDevices } from './fsck_check.js';
import type { SimRng } from './rng.js';
import type { ServerNode, StartOptions } from './server_node.js';
import type { Worker } from './worker.js';
import type { World } from './world.js';

export const FAULT_KINDS = [
  'kill server',
  'server loses power',
  'upgrade',
  'upgrade with standby',
  'hold and kill',
  'kill client',
  'evict client',
  'partition',
  'one-way partition',
  'clog',
  'cut',
  'stop server',
  'stop client',
  'slow disk',
  'shrink kernel',
  'remount',
  'kill process',
  'commit error',
  'forced start',
  'cancel shutdown',
  'data read error',
  'data write error',
  'data flush error',
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

const VERSIONS = ['1.0.0', '1.1.0', '2.0.0'] as const;
/** Above it, timers of the product that are there for lost peers go off. */
const LONG_MS = 120_000;
/** A process that was killed is gone after so long, whatever its server does. */
const KILL_MS = 1000;
const WATCH_MS = 1000;
/** Longer than any other fault leaves a server down. */
const RESTART_MS = 5000;
/** Dirty data is written back, or lost, within about a second. */
const LOSS_KNOWN_MS = 2000;
const DATA_ERRORS = ['readErrorChance', 'writeErrorChance', 'flushErrorChance'] as const;

export class Faults {
  readonly #world: World;
  readonly #rng: SimRng;
  readonly #kinds: readonly FaultKind[];
  readonly counts = new Map<FaultKind, number>();
  #isOver = false;
  /** What was broken works again. */
  #isWhole = false;
  /** Faults whose end is still to come. */
  #underWay = new Set<Promise<void>>();
  /** A client was killed or unmounted and is back: processes may start on it. */
  onMounted: (client: ClientNode) => void = () => undefined;
  /** To be unmounted when their processes have ended. */
  readonly #leaving = new Set<ClientNode>();
  /** Processes that may be killed. */
  workers: () => readonly Worker[] = () => [];
  /** All processes of a client must end: it will be unmounted. */
  beforeUnmount: (client: ClientNode) => Promise<void> = async () => undefined;

  constructor(world: World, rng: SimRng, kinds: readonly FaultKind[]) {
    this.#world = world;
    this.#rng = rng;
    this.#kinds = kinds;
  }

  /** Until end() is called. */
  async run(meanGapMs: number): Promise<void> {
    void this.#watch();
    if (this.#kinds.length === 0) return;
    for (;;) {
      await this.#world.sleep(meanGapMs * 2 * this.#rng.fraction());
      if (this.#isOver) return;
      const kind = this.#rng.pick(this.#kinds);
      this.#world.invariants.all();
      const strike = this.#strike(kind);
      if (strike === undefined) continue;
      this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
      this.#world.scheduler.trace.say('FAULT', kind);
      const over = strike.finally(() => this.#underWay.delete(over));
      over.catch((error: unknown) => this.#world.violated(`fault ${kind}: ${String(error)}`));
      this.#underWay.add(over);
      if (this.#rng.chance(0.5)) await over;
    }
  }

  /** The service manager: a server that ended by itself is started again. */
  async #watch(): Promise<void> {
    for (let downMs = 0; !this.#isWhole; downMs += WATCH_MS) {
      await this.#world.sleep(WATCH_MS);
      if (this.#world.servers.some(({ program }) => program !== undefined)) downMs = 0;
      else if (downMs >= RESTART_MS && !this.#isWhole) await this.#startServer();
    }
  }

  /** No more of them; resolves when all is whole again. */
  async end(): Promise<void> {
    this.#isOver = true;
    this.#world.network.heal();
    let isQuiet = false;
    const quiet = Promise.all(this.#underWay).then(() => {
      isQuiet = true;
    });
    // Who unmounts waits for a server.
    const isStranded = (): boolean => this.#world.active === undefined && this.#leaving.size > 0;
    while (!isQuiet) {
      if (isStranded()) await this.#startServer();
      await this.#world.sleep(20);
    }
    await quiet;
    this.#world.network.heal();
    const { data, meta } = this.#world.disks;
    data.slowChance = 0;
    meta.slowChance = 0;
    meta.commitErrorChance = 0;
    for (const what of DATA_ERRORS) data[what] = 0;
    if (this.#world.active === undefined) await this.#startServer();
    for (const client of this.#world.clients) if (!client.isMounted) await this.#mount(client);
    this.#isWhole = true;
    this.#world.say('no more faults');
  }

  /** @returns undefined when it makes no sense now. */
  #strike(kind: FaultKind): Promise<void> | undefined {
    const world = this.#world;
    const server = world.active;
    const client = this.#rng.pick(world.clients);
    switch (kind) {
      case 'kill server':
        return server && this.#kill(server, 'kill');
      case 'server loses power':
        return server && this.#kill(server, 'power');
      case 'hold and kill':
        return server && this.#holdAndKill(server);
      case 'upgrade':
        return server && this.#upgrade(server, false);
      case 'upgrade with standby':
        return server && this.#upgrade(server, true);
      case 'kill client':
        return client.isMounted ? this.#killClient(client) : undefined;
      case 'evict client':
        return server && this.#evict(server, client);
      case 'partition':
        return server && this.#partition(server, client, true);
      case 'one-way partition':
        return server && this.#partition(server, client, false);
      case 'clog':
        return server && this.#clog(server, client);
      case 'cut':
        return this.#cut();
      case 'stop server':
        return server && this.#stop(server.program, this.#briefMs());
      case 'stop client':
        return this.#stop(client.program, this.#briefMs());
      case 'slow disk':
        return this.#slowDisk();
      case 'shrink kernel':
        if (client.isMounted) client.kernel.shrink(0.5);
        return Promise.resolve();
      case 'remount':
        return client.isMounted && !this.#leaving.has(client) ? this.#remount(client) : undefined;
      case 'kill process':
        return this.#killProcess();
      case 'commit error':
        return server && this.#commitError(server);
      case 'forced start':
        return server && this.#forcedStart(server);
      case 'cancel shutdown':
        return server && this.#cancelShutdown(server);
      case 'data read error':
        return this.#dataError('readErrorChance');
      case 'data write error':
        return this.#dataError('writeErrorChance');
      case 'data flush error':
        return this.#dataError('flushErrorChance');
    }
  }

  /** Mostly short; now and then past every time limit. */
  #briefMs(): number {
    return this.#rng.chance(0.85) ? this.#rng.below(3000) : this.#rng.below(LONG_MS);
  }

  async #kill(server: ServerNode, how: 'kill' | 'power'): Promise<void> {
    server.crash(how);
    await this.#world.sleep(this.#rng.below(2000));
    await this.#startServer(server);
  }

  async #holdAndKill(server: ServerNode): Promise<void> {
    const { program } = server;
    server.hold();
    await this.#world.sleep(this.#rng.below(1000));
    if (program?.alive === true) await this.#kill(server, 'kill');
  }

  async #upgrade(server: ServerNode, withStandby: boolean): Promise<void> {
    const version = this.#rng.pick(VERSIONS);
    const partner = this.#world.servers.find((one) => one !== server && one.program === undefined);
    const next = this.#rng.chance(0.5) ? (partner ?? server) : server;
    const standing =
      withStandby && next !== server
        ? next.start({ version, standBy: true }).catch((error: unknown) => this.#refused(error))
        : undefined;
    const how = await this.#shutDown(server);
    if (standing !== undefined) {
      // Nothing to stand by for.
      if (how === 'cancelled') next.crash();
      else await standing;
      // Without the mark another version was refused.
      if (how !== 'unmarked') return;
    }
    // Killed on the way by another fault: whoever did that starts it again.
    if (how !== 'cancelled' && how !== 'killed') await this.#startServer(next, version);
  }

  /** Resolves when the program is gone, or goes on. */
  async #shutDown(server: ServerNode): Promise<ShutdownEnd | 'failed' | 'killed'> {
    const { program } = server;
    let how: ShutdownEnd | 'failed' | undefined;
    server.server?.shutdown().then(
      (result) => {
        how = result;
      },
      (error: unknown) => {
        how = 'failed';
        this.#world.scheduler.trace.say(server.name, `shutdown: ${String(error)}`);
      },
    );
    await this.#world.until(() => program?.alive !== true || how === 'cancelled');
    return how ?? 'killed';
  }

  /** As an operator would: the version that is allowed, until one serves. */
  async #startServer(wanted?: ServerNode, version?: string): Promise<void> {
    const world = this.#world;
    for (;;) {
      if (world.servers.some(({ program }) => program !== undefined)) return;
      if (this.#rng.chance(0.3) && world.disks.data.readErrorChance === 0) {
        await checkDevices(world, 'before a start');
      }
      if (world.servers.some(({ program }) => program !== undefined)) return;
      const server = wanted ?? this.#rng.pick(world.servers);
      const { clean, softwareVersion } = world.disks.meta.superblock();
      const allowed = clean ? version : undefined;
      await this.#started(server, { version: allowed ?? (softwareVersion || VERSIONS[0]) });
      if (world.active !== undefined) return;
      await world.sleep(20);
    }
  }

  /** Resolves when it serves, was refused, or is gone again. */
  async #started(server: ServerNode, options: StartOptions): Promise<void> {
    let isSettled = false;
    server
      .start(options)
      .catch((error: unknown) => this.#refused(error))
      .finally(() => {
        isSettled = true;
      });
    const { program } = server;
    await this.#world.until(() => isSettled || program?.alive !== true);
  }

  #refused(error: unknown): void {
    // Whatever is on the devices: only who can start can make room.
    if (error instanceof FsError && error.code === 'ENOSPC') {
      this.#world.violated(`a start was refused for lack of room: ${error.message}`);
    }
    this.#world.scheduler.trace.say('FAULT', `a start failed: ${String(error)}`);
  }

  async #killClient(client: ClientNode): Promise<void> {
    client.crash(this.#rng.chance(0.5) ? 'kill' : 'power');
    await this.#world.sleep(this.#rng.below(3000));
    await this.#mount(client);
  }

  async #mount(client: ClientNode): Promise<void> {
    if (client.isMounted || client.program !== undefined) return;
    await client.mount();
    this.onMounted(client);
  }

  async #remount(client: ClientNode): Promise<void> {
    const { program } = client;
    this.#leaving.add(client);
    try {
      await this.beforeUnmount(client);
      if (client.program !== program || !client.isMounted) return;
      await client.unmount();
    } finally {
      this.#leaving.delete(client);
    }
    await this.#world.sleep(this.#rng.below(500));
    await this.#mount(client);
  }

  /** SIGKILL: its call ends although the server may be away, and so does the process. */
  async #killProcess(): Promise<void> {
    const world = this.#world;
    const running = this.workers().filter(({ state, isDisturbed }) => state === 'working' && !isDisturbed);
    if (running.length === 0) return;
    const worker = this.#rng.pick(running);
    const { program } = worker.node;
    const beganMs = world.scheduler.nowMs;
    worker.process.kill();
    const isOver = (): boolean => worker.state !== 'working' && worker.doing === 'nothing';
    await world.until(() => {
      const runs = program?.alive === true && program.stoppedUntilMs <= world.scheduler.nowMs;
      return isOver() || !runs || world.scheduler.nowMs - beganMs > KILL_MS;
    });
    const stoppedMs = program?.stoppedUntilMs ?? 0;
    if (isOver() || program?.alive !== true || stoppedMs > beganMs || !worker.process.isInRequest) return;
    world.violated(`${worker.name} was killed and did not end within ${KILL_MS} ms: ${worker.doing}`);
  }

  /** The target fails, and its server stops by itself; what was answered is replayed to the next one. */
  async #commitError(server: ServerNode): Promise<void> {
    const { meta } = this.#world.disks;
    const { program } = server;
    meta.commitErrorChance = 1;
    await this.#world.sleep(this.#rng.below(500));
    meta.commitErrorChance = 0;
    if (program?.alive !== true) await this.#startServer();
  }

  /**
   * The data device fails some requests, or all. A read or a write that fails is answered EIO, and the server goes on; after a
   * flush it stops by itself, and what was answered is replayed to the next one.
   */
  async #dataError(what: (typeof DATA_ERRORS)[number]): Promise<void> {
    const world = this.#world;
    const { data } = world.disks;
    data[what] = this.#rng.pick([0.02, 0.2, 1]);
    await world.sleep(this.#rng.below(1500));
    data[what] = 0;
    await this.#startServer();
    // What was under way has been answered, and who lost something has been told, or will be when it closes its files.
    await world.sleep(LOSS_KNOWN_MS);
    for (const client of world.clients) {
      const isBusy = this.workers().some(({ node, state }) => node === client && state === 'working');
      if (client.isMounted && !isBusy && !this.#isOver && !this.#leaving.has(client)) this.onMounted(client);
    }
  }

  async #forcedStart(server: ServerNode): Promise<void> {
    server.crash();
    await this.#world.sleep(this.#rng.below(500));
    if (this.#world.servers.some(({ program }) => program !== undefined)) return;
    const version = this.#rng.pick(VERSIONS);
    await this.#started(server, { version, forceStart: true });
    if (this.#world.active === undefined) await this.#startServer();
  }

  async #cancelShutdown(server: ServerNode): Promise<void> {
    const shuttingDown = this.#shutDown(server);
    await this.#world.sleep(this.#rng.chance(0.5) ? 0 : this.#rng.fraction() * 5);
    server.server?.cancelShutdown();
    const how = await shuttingDown;
    if (how !== 'cancelled' && how !== 'killed') await this.#startServer();
  }

  async #evict(server: ServerNode, client: ClientNode): Promise<void> {
    const name = server.server?.status().clients.find((one) => one.name.startsWith(`${client.name}.`))?.name;
    if (name === undefined) return;
    try {
      server.server?.evict(name, 'the simulator wanted it');
    } catch (error) {
      this.#refused(error);
    }
  }

  async #partition(server: ServerNode, client: ClientNode, bothWays: boolean): Promise<void> {
    const { network } = this.#world;
    const [from, to] = this.#rng.chance(0.5)
      ? [server.machine, client.machine]
      : [client.machine, server.machine];
    network.block(from, to);
    if (bothWays) network.block(to, from);
    await this.#world.sleep(this.#briefMs());
    network.unblock(from, to);
    if (bothWays) network.unblock(to, from);
  }

  async #clog(server: ServerNode, client: ClientNode): Promise<void> {
    const { network } = this.#world;
    const ms = this.#rng.pick([1, 20, 300]);
    network.clog(server.machine, client.machine, ms);
    network.clog(client.machine, server.machine, ms);
    await this.#world.sleep(this.#rng.below(5000));
    network.clog(server.machine, client.machine, 0);
    network.clog(client.machine, server.machine, 0);
  }

  async #cut(): Promise<void> {
    const sockets = [...this.#world.network.connections];
    if (sockets.length > 0) this.#rng.pick(sockets).cut(this.#rng.below(2000));
  }

  async #stop(program: { stoppedUntilMs: number } | undefined, ms: number): Promise<void> {
    if (program === undefined) return;
    program.stoppedUntilMs = this.#world.scheduler.nowMs + ms;
    await this.#world.sleep(ms);
  }

  async #slowDisk(): Promise<void> {
    const { data, meta } = this.#world.disks;
    data.slowChance = 0.2;
    meta.slowChance = 0.2;
    await this.#world.sleep(this.#rng.below(3000));
    data.slowChance = 0;
    meta.slowChance = 0;
  }
}
