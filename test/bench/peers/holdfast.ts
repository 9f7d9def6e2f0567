/** Holdfast as a user runs it: the real commands, a server on two devices, and mounts. */

import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SMALL_YOUNG_GENERATION } from '../../../src/cli/client_program.js';
import type { Child } from '../../fixtures/child.js';
import { freePort } from '../../fixtures/failover_pair.js';
import { profilingOptions } from '../flame.js';
import type { Peer, RunningPeer } from '../peer.js';
import type { Site } from '../site.js';
import { dropCaches } from './local.js';

// Of the tree that this file was built into, whatever its name.
const MAIN = fileURLToPath(new URL('../../../bin/main.js', import.meta.url));
/** Of the devices of a site, the part that is for metadata. */
const META_PART = 0.25;
const PATIENCE_MS = 120_000;
const REQUESTS = /^holdfast_server_requests_total (\d+)$/m;

export interface Devices {
  readonly meta: string;
  readonly data: string;
}

/** How the server is reached. */
export interface Reach {
  readonly listen: string;
  readonly serveArgs?: readonly string[];
  /** What clients are run by, to be on another host. */
  readonly clientCommand?: readonly string[];
  /** Clients have a key that is made for them, or these options. */
  readonly mountOptions: 'key' | readonly string[];
}

const LOCAL: Reach = { listen: '127.0.0.1:0', mountOptions: [] };

export interface SiteOptions {
  readonly main?: string;
  /** Folder for the profiles of its processes. */
  readonly profiles?: string | undefined;
  readonly reach?: Reach;
}

/** A server and its mounts. */
export class HoldfastSite implements RunningPeer {
  readonly #site: Site;
  readonly #main: string;
  readonly #devices: Devices;
  readonly #env: NodeJS.ProcessEnv;
  /** Folder for the profiles of its processes. */
  readonly #profiles: string | undefined;
  readonly #metrics: string;
  readonly #clients = new Map<number, Child>();
  readonly #reach: Reach;
  #address: string;
  #key: string | undefined;
  #server: Child | undefined;
  /** Of the last start, until it served; of the last mount, until it was usable. */
  startMs = 0;
  mountMs = 0;

  private constructor(site: Site, devices: Devices, metrics: string, options: SiteOptions) {
    this.#profiles = options.profiles;
    this.#site = site;
    this.#main = options.main ?? MAIN;
    this.#reach = options.reach ?? LOCAL;
    this.#address = this.#reach.listen;
    this.#devices = devices;
    this.#metrics = metrics;
    this.#env = { ...process.env, HOLDFAST_RUNTIME_DIR: site.makeFolder('run', 0o700) };
  }

  static async make(site: Site, devices: Devices, options: SiteOptions = {}): Promise<HoldfastSite> {
    const holdfast = new HoldfastSite(site, devices, `127.0.0.1:${await freePort()}`, options);
    const { meta, data } = devices;
    await holdfast.#command('mkfs', '--meta', meta, '--data', data, '--force', '--label', 'bench');
    await holdfast.startServer();
    await holdfast.mount(0);
    return holdfast;
  }

  get mountpoint(): string {
    return this.#mountpoint(0);
  }

  get serverPid(): number {
    return this.#server?.pid ?? 0;
  }

  get clientPid(): number {
    return this.#clients.get(0)?.pid ?? 0;
  }

  #mountpoint(index: number): string {
    return this.#site.path(`holdfast-${index}`);
  }

  async #command(...args: string[]): Promise<void> {
    await this.#site.helper(process.execPath, [this.#main, ...args], this.#env);
  }

  /** Node's options for a process of this side. */
  #nodeOptions(side: string): readonly string[] {
    return this.#profiles === undefined ? [] : profilingOptions(join(this.#profiles, side));
  }

  async startServer(): Promise<void> {
    const { meta, data } = this.#devices;
    const where = ['--meta', meta, '--data', data, '--listen', this.#address, '--metrics', this.#metrics];
    const began = performance.now();
    const more = this.#reach.serveArgs ?? [];
    const args = [...this.#nodeOptions('server'), this.#main, 'serve', ...where, ...more];
    this.#server = this.#site.daemon('server', process.execPath, args, this.#env);
    const [, address = ''] = await this.#server.line(/^holdfast: serving \S+ on (\S+),/, PATIENCE_MS);
    this.startMs = performance.now() - began;
    this.#address = address;
  }

  async stopServer(): Promise<void> {
    const server = this.#server;
    server?.kill('SIGTERM');
    const exit = await server?.exited;
    if (exit?.code !== 0) throw new Error(`the server failed to stop: ${server?.tail()}`);
  }

  /** For `mount -o`. */
  async #mountOptions(): Promise<readonly string[]> {
    const { mountOptions } = this.#reach;
    if (mountOptions !== 'key') return mountOptions;
    if (this.#key === undefined) {
      this.#key = this.#site.path('clients.key');
      const add = ['access', 'add', 'clients', '--server', this.#address, '--no-root-squash'];
      await this.#command(...add, '--output', this.#key);
    }
    return [`key=${this.#key}`];
  }

  async mount(index: number): Promise<string> {
    const mountpoint = this.#mountpoint(index);
    if (this.#clients.has(index)) return mountpoint;
    mkdirSync(mountpoint, { recursive: true });
    const options = await this.#mountOptions();
    const given = options.length === 0 ? [] : ['-o', options.join(',')];
    const [command = '', ...args] = [
      ...(this.#reach.clientCommand ?? []),
      process.execPath,
      // As a mount in the background runs.
      SMALL_YOUNG_GENERATION,
      ...this.#nodeOptions('client'),
      this.#main,
      'mount',
      this.#address,
      mountpoint,
      '--foreground',
      ...given,
    ];
    const began = performance.now();
    const client = this.#site.daemon('client', command, args, this.#env);
    await client.line(/^holdfast: mounted/, PATIENCE_MS);
    this.mountMs = performance.now() - began;
    this.#clients.set(index, client);
    return mountpoint;
  }

  /** All mounts. @returns which there were. */
  async umount(): Promise<number[]> {
    const indexes = [...this.#clients.keys()];
    for (const [index, client] of this.#clients) {
      await this.#command('umount', this.#mountpoint(index));
      await client.exited;
    }
    this.#clients.clear();
    return indexes;
  }

  async drop(what: 'client' | 'all'): Promise<void> {
    const mounts = await this.umount();
    if (what === 'all') {
      await this.stopServer();
      dropCaches();
      await this.startServer();
    }
    for (const index of mounts) await this.mount(index);
  }

  async settle(): Promise<void> {
    await this.#site.helper('sync', ['--file-system', this.mountpoint]);
  }

  /** undefined: a build that does not count them. */
  async rpcs(): Promise<number | undefined> {
    const response = await fetch(`http://${this.#metrics}/metrics`);
    const [, count] = REQUESTS.exec(await response.text()) ?? [];
    return count === undefined ? undefined : Number(count);
  }

  async stop(): Promise<void> {
    await this.umount();
    await this.stopServer();
  }
}

async function start(site: Site, options: SiteOptions): Promise<HoldfastSite> {
  const metaBytes = Math.floor(site.deviceBytes * META_PART);
  const meta = await site.device('meta', metaBytes);
  const data = await site.device('data', site.deviceBytes - metaBytes);
  return await HoldfastSite.make(site, { meta, data }, options);
}

export const HOLDFAST: Peer = {
  name: 'holdfast',
  commands: [],
  packages: [],
  secondMount: 'client',
  hasClient: true,
  start: (site) => start(site, {}),
};

/** Holdfast, reached in this way. */
export function reached(name: string, reach: Reach): Peer {
  return { ...HOLDFAST, name, start: (site) => start(site, { reach }) };
}

/** Holdfast, whose processes write profiles into this folder. */
export function profiled(folder: string): Peer {
  return { ...HOLDFAST, start: (site) => start(site, { profiles: folder }) };
}

/** Another build of Holdfast, compared with this one as any other peer is. @param folder its repository, built. */
export function otherBuild(folder: string): Peer {
  // Builds of 0.1.0 have it among their modules.
  const places = ['bin', join('src', 'cli')].map((place) => join(folder, 'dist', place, 'main.js'));
  const main = places.find((path) => existsSync(path));
  if (main === undefined) throw new Error(`${places[0]} is not there: build it first`);
  return { ...HOLDFAST, name: 'before', start: (site) => start(site, { main }) };
}
