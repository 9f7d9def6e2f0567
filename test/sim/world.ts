/**
 * The world: one target on two devices, one or two servers that can reach them, some clients, the network between, and the
 * checks that hold at every moment. A story (a test with a script) and the random runs both play in it.
 */

import type { Credentials } from '../../src/runtime/ports.js';
import type { ServerOptions } from '../../src/server/server.js';
import { formatTarget } from '../../src/storage/mkfs.js';
import { watchTarget } from './checkers.js';
import { ClientNode } from './client_node.js';
import { SimDisk } from './disk.js';
import { InvariantWatch } from './invariants.js';
import { Machine } from './machine.js';
import { SimMetaDisk } from './meta_disk.js';
import { SimNetwork } from './network.js';
import { SimRng } from './rng.js';
import { Scheduler } from './scheduler.js';
import { type Disks, ServerNode, type StartOptions } from './server_node.js';
import { THIS_BUILD } from './versions.js';

const META_BYTES = 32 << 20;
const DATA_BYTES = 32 << 20;
const SMALL_DATA_BYTES = 16 << 20;
const PORT = 7000;

export interface WorldOptions {
  readonly seed?: number;
  readonly clients?: number;
  readonly servers?: number;
  readonly dataBytes?: number;
  readonly settings?: Partial<ServerOptions>;
  /** Formatted devices to begin with; formatted anew when there are none. */
  readonly image?: Disks | undefined;
  /** All clients come with this key, and their root is nobody. */
  readonly credentials?: Credentials | undefined;
  /** Virtual time after which a script that is not over has failed. */
  readonly limitMs?: number;
  /** Looks at invariants seldom: see invariants.ts. */
  readonly hasManyFiles?: boolean;
}

/** What a check found: the run has failed. */
export class Violation extends Error {
  override name = 'Violation';
}

export class World {
  readonly scheduler: Scheduler;
  readonly rng: SimRng;
  readonly network: SimNetwork;
  readonly disks: Disks;
  readonly servers: readonly ServerNode[];
  readonly clients: readonly ClientNode[];
  readonly violations: Violation[] = [];
  readonly invariants: InvariantWatch;
  /** The server checks permissions: whoever plays may do what the owner of a file may. */
  readonly isSquashed: boolean;

  constructor(options: WorldOptions, scheduler: Scheduler, disks: Disks) {
    const seed = options.seed ?? 1;
    this.scheduler = scheduler;
    this.rng = new SimRng(seed);
    this.network = new SimNetwork(scheduler, this.rng.fork('network'));
    this.disks = disks;
    this.isSquashed = options.credentials !== undefined;
    const addresses = Array.from({ length: options.servers ?? 1 }, (_, index) => ({
      host: `server${index}`,
      port: PORT,
    }));
    this.servers = addresses.map(
      (address) => new ServerNode(this.#machine(address.host), address, disks, options.settings ?? {}),
    );
    this.clients = Array.from(
      { length: options.clients ?? 1 },
      (_, index) => new ClientNode(this.#machine(`client${index}`), addresses),
    );
    for (const client of this.clients) {
      client.credentials = options.credentials;
      client.mayLose = () => this.dataErrors > 0;
      client.buildAt = ({ host }) => this.servers.find(({ name }) => name === host)?.build ?? THIS_BUILD;
    }
    for (const server of this.servers) {
      server.onEviction = (name, reason) => {
        scheduler.trace.say(server.name, `evicts ${name}: ${reason}`);
        const client = this.clients.find((one) => name.startsWith(`${one.name}.`));
        client?.disturbed(Number(name.split('.')[1]));
      };
    }
    watchTarget(this);
    this.invariants = new InvariantWatch(this, options.hasManyFiles);
  }

  #machine(name: string): Machine {
    const machine = new Machine(name, this.scheduler, this.network, this.rng.fork(name));
    this.network.add(machine);
    return machine;
  }

  server(index = 0): ServerNode {
    const found = this.servers[index];
    if (found === undefined) throw new Error(`no server ${index}`);
    return found;
  }
  client(index = 0): ClientNode {
    const found = this.clients[index];
    if (found === undefined) throw new Error(`no client ${index}`);
    return found;
  }
  /** The one that serves, or is about to. */
  get active(): ServerNode | undefined {
    return this.servers.find(({ store, server }) => store !== undefined && server?.target !== undefined);
  }

  /** Reads and writes that the data device has failed: data that was not synced may be lost, and whose it was is told. */
  get dataErrors(): number {
    return this.disks.data.errors;
  }

  sleep(ms: number): Promise<void> {
    return this.scheduler.sleep(ms);
  }
  say(what: string): void {
    this.scheduler.trace.say('world', what);
  }
  violated(what: string): void {
    this.scheduler.trace.say('CHECK', what);
    this.violations.push(new Violation(what));
  }

  /** Resolves as soon as it is so; looked at every millisecond of virtual time. */
  async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) await this.sleep(1);
  }

  // ---- What scripts do most.

  /** Kills the server, and starts it again. */
  async restart(
    options: { readonly afterMs?: number; readonly version?: string; readonly how?: 'kill' | 'power' } = {},
  ): Promise<void> {
    this.server().crash(options.how ?? 'kill');
    await this.sleep(options.afterMs ?? 200);
    await this.server().start(options.version === undefined ? {} : { version: options.version });
  }

  /** A controlled shutdown, then another version. */
  async upgrade(version: string, options: StartOptions = {}): Promise<void> {
    await this.server().server?.shutdown();
    await this.until(() => this.server().program === undefined);
    await this.server().start({ ...options, version });
  }
}

/** A formatted pair of devices, made once for many worlds. */
export async function makeImage(dataBytes = DATA_BYTES, metaBytes = META_BYTES): Promise<Disks> {
  const scheduler = new Scheduler();
  const rng = new SimRng(0);
  const network = new SimNetwork(scheduler, rng);
  const program = new Machine('mkfs', scheduler, network, rng).run('mkfs');
  const disks = makeDisks(scheduler, rng, { dataBytes, metaBytes }, undefined);
  let isDone = false;
  const formatting = formatTarget(
    program.runtime(),
    {
      data: disks.data.open(program),
      metaPath: 'meta',
      metaSizeBytes: metaBytes,
      runtimeDir: 'none',
      metaMedium: disks.meta.medium(program),
    },
    { label: 'sim', force: false },
  ).finally(() => {
    isDone = true;
  });
  await scheduler.run(() => isDone, Number.POSITIVE_INFINITY);
  await formatting;
  return disks;
}

/** The same with an access entry that squashes root, and a root directory for everybody. */
async function squashedImage(image: Disks): Promise<SquashedImage> {
  let credentials: Credentials | undefined;
  const { disks } = await simulate({ image }, async (world) => {
    await world.client().process().chmod('/', 0o777);
    const { target } = world.server().server ?? {};
    const rights = { readOnly: false, squashRoot: true, admin: false };
    const made = target?.access.add({ name: 'sim', kind: 'key', ...rights, from: [], limits: {} });
    if (made?.key === undefined) throw new Error('no key was made');
    credentials = { kind: 'key', identity: made.key.id, key: made.key.secret };
    await world.client().unmount();
    await world.server().server?.shutdown();
    await world.until(() => world.server().program === undefined);
  });
  if (credentials === undefined) throw new Error('no key was made');
  return { disks, credentials };
}

interface SquashedImage {
  readonly disks: Disks;
  readonly credentials: Credentials;
}

export interface Images {
  readonly usual: Disks;
  readonly squashed: SquashedImage;
  /** Full soon. */
  readonly small: Disks;
}

export async function makeImages(): Promise<Images> {
  const usual = await makeImage();
  return { usual, squashed: await squashedImage(usual), small: await makeImage(SMALL_DATA_BYTES) };
}

interface Sizes {
  readonly dataBytes: number;
  readonly metaBytes: number;
}

function makeDisks(scheduler: Scheduler, rng: SimRng, sizes: Sizes, image: Disks | undefined): Disks {
  const metaBytes = image?.meta.sizeBytes ?? sizes.metaBytes;
  const meta = new SimMetaDisk(metaBytes, scheduler, rng.fork('meta disk'), image?.meta);
  const bytes = image?.data.sizeBytes ?? sizes.dataBytes;
  return { meta, data: new SimDisk('data', bytes, scheduler, rng.fork('data disk'), image?.data) };
}

/** A world whose server serves and whose clients are mounted. */
export async function simulate(
  options: WorldOptions,
  script: (world: World) => Promise<void>,
  prepare: (world: World) => void = () => undefined,
): Promise<World> {
  const image = options.image ?? (await makeImage(options.dataBytes));
  const scheduler = new Scheduler();
  const disks = makeDisks(
    scheduler,
    new SimRng(options.seed ?? 1),
    { dataBytes: options.dataBytes ?? DATA_BYTES, metaBytes: META_BYTES },
    image,
  );
  const world = new World(options, scheduler, disks);
  prepare(world);
  let isOver = false;
  const playing = (async () => {
    await world.server().start();
    await Promise.all(world.clients.map((client) => client.mount()));
    await script(world);
  })().finally(() => {
    isOver = true;
  });
  playing.catch(() => undefined);
  const end = await scheduler.run(() => isOver || world.violations.length > 0, options.limitMs ?? 600_000);
  const [violation] = world.violations;
  if (violation !== undefined) throw violation;
  if (end !== 'done') throw new Violation(`the script did not end (${end}): ${blocked(world).join(', ')}`);
  await playing;
  world.invariants.all();
  const [late] = world.violations;
  if (late !== undefined) throw late;
  return world;
}

/** What waits, for the report of a run that does not end. */
export function blocked(world: World): string[] {
  const found = world.clients.flatMap((client) =>
    client.isMounted ? client.kernel.channel.describe().map((text) => `${client.name}: ${text}`) : [],
  );
  const states = world.servers.map(({ name, server }) => `${name} is ${server?.state ?? 'down'}`);
  return [...states, ...found];
}
