/**
 * Clean upgrades to a standby, under clients on another host, again and again: servers that differ in one thing take turns. Each
 * has its clients and their open files all the time.
 */

import type { Proofs } from '../../mount/options.js';
import type { Host, Network } from '../fixtures/hosts.js';
import { type BenchServer, BenchServers, type Host as ServerHost } from './bench_servers.js';
import { ClientPool } from './client_pool.js';
import { monotonicMs } from './client_worker.js';

/** Before the upgrade and behind it, clients that work have this time to come to operations of their own. */
const WORK_MS = 500;

export type Trust = 'key' | 'tls=off';

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export class UpgradedServer {
  readonly #servers: BenchServers;
  readonly #host: ServerHost;
  readonly #args: readonly string[];
  #pool: ClientPool | undefined;
  #active: BenchServer | undefined;
  #standby: BenchServer | undefined;
  #opens = 0;

  private constructor(servers: BenchServers, args: readonly string[]) {
    this.#servers = servers;
    this.#host = servers.host(0);
    this.#args = args;
  }

  /** The server is on this machine, the clients are on the host, and have so many files open, all together. */
  static async start(
    trust: Trust,
    { network, host }: { readonly network: Network; readonly host: Host },
    { clients, opens }: { readonly clients: number; readonly opens: number },
  ): Promise<UpgradedServer> {
    const servers = await BenchServers.make(1, network.here);
    const args = trust === 'key' ? [] : ['--tls=off', '--from', network.range];
    const upgraded = new UpgradedServer(servers, args);
    try {
      await upgraded.#serve(trust, host, clients, opens);
    } catch (thrown) {
      await upgraded.end();
      throw thrown;
    }
    return upgraded;
  }

  async #serve(trust: Trust, { command }: Host, clients: number, opens: number): Promise<void> {
    this.#active = this.#servers.start(this.#host, this.#args);
    await this.#active.ready();
    const proofs: Proofs =
      trust === 'key' ? { by: 'key', path: await this.#servers.makeKey(this.#host) } : { by: 'nothing' };
    this.#pool = await ClientPool.start([this.#host.address], clients, { command, proofs });
    const each = Math.floor(opens / clients);
    await this.#pool.open(each, 1);
    this.#opens = each * clients;
  }

  get #clients(): ClientPool {
    if (this.#pool === undefined) throw new Error('it has no clients');
    return this.#pool;
  }

  /** A standby for the next upgrade. */
  async ready(): Promise<void> {
    if (this.#standby !== undefined) return;
    this.#standby = this.#servers.start(this.#host, [...this.#args, '--standby']);
    await this.#standby.standingBy();
  }

  /** @returns from the beginning of the shutdown until the last client can be used with the next server, in milliseconds. */
  async upgrade(): Promise<number> {
    const [active, standby] = [this.#active, this.#standby];
    if (active === undefined || standby === undefined) throw new Error('there is no standby');
    const beganMs = monotonicMs();
    const [{ instance }] = await Promise.all([standby.ready(), active.stop()]);
    const fullMs = await this.#clients.full(instance);
    this.#active = standby;
    this.#standby = undefined;
    return fullMs - beganMs;
  }

  /** @returns the longest that an operation of the clients took, which create files all the time. */
  async pause(): Promise<number> {
    await this.#clients.work();
    await sleep(WORK_MS);
    await this.upgrade();
    await sleep(WORK_MS);
    return (await this.#clients.stop()).longestMs;
  }

  /** What was open before is open, and nobody was evicted. */
  async check(): Promise<void> {
    await this.#clients.check(this.#opens);
  }

  async end(): Promise<void> {
    await this.#pool?.end();
    await this.#servers.end();
  }
}
