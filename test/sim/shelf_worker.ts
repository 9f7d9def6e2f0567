/**
 * A process that keeps files on shelves: directories that the processes of all clients share. In one it does many things in a row, and then
 * looks into another one. So directories change hands, and most of what a client finds there is older than its own lock.
 *
 * Each process has names of its own there, which it makes, renames, changes and removes: each call must do what it says. And each
 * shelf has files of which all change the mode, and look at it by name and by handle: their modes are registers.
 */

import type { ClientNode } from './client_node.js';
import { O_CREAT, type OpenFile } from './file_calls.js';
import { Register } from './shared_workers.js';
import { Worker } from './worker.js';
import type { World } from './world.js';

const O_RDONLY = 0;
const O_WRONLY = 1;
const SHELVES = 3;
const SHARED_FILES = 3;
const FIRST_MODE = 0o644;
const PERMISSIONS = 0o777;
const NAMES_MAX = 12;

/** The modes of the files that all change. */
export class Shelves {
  readonly #registers = new Map<string, Register>();
  #modes = 0;

  register(path: string): Register {
    const register = this.#registers.get(path) ?? new Register();
    this.#registers.set(path, register);
    return register;
  }

  /** One that nobody has set for a long time. */
  nextMode(): number {
    this.#modes += 1;
    if (this.#modes % (PERMISSIONS + 1) === FIRST_MODE) this.#modes += 1;
    return this.#modes % (PERMISSIONS + 1);
  }

  get areUsedUp(): boolean {
    return this.#modes > PERMISSIONS - 8;
  }
}

const registerValue = (mode: number): string =>
  (mode & PERMISSIONS) === FIRST_MODE ? '' : `${mode & PERMISSIONS}`;

/** A shelf as one process knows it. */
interface Shelf {
  readonly base: string;
  /** Its own names there, with the modes of the files. */
  readonly names: Map<string, number>;
  /** Handles on the files that all change. */
  readonly opens: Map<string, OpenFile>;
  isSetUp: boolean;
}

export class ShelfWorker extends Worker {
  readonly #shelves: Shelves;
  readonly #mine: readonly Shelf[];
  readonly #count: number;
  #made = 0;

  constructor(world: World, node: ClientNode, name: string, shelves: Shelves, count: number) {
    super(world, node, name);
    this.#shelves = shelves;
    this.#count = count;
    this.#mine = Array.from({ length: SHELVES }, (_, at) => {
      return { base: `/shelf${at}`, names: new Map(), opens: new Map(), isSetUp: false };
    });
  }

  protected async work(): Promise<void> {
    for (let done = 0; done < this.#count && !this.isStopping; ) {
      const shelf = this.rng.pick(this.#mine);
      await this.#setUp(shelf);
      const row = this.rng.between(1, 40);
      for (let at = 0; at < row && !this.isStopping; at++) await this.#step(shelf);
      done += row;
      await this.think();
    }
    for (const shelf of this.#mine) await this.#compare(shelf);
  }

  /** When it returns, what is shared there is durable. */
  async #setUp(shelf: Shelf): Promise<void> {
    if (shelf.isSetUp) return;
    shelf.isSetUp = true;
    const errno = await this.does(`mkdir ${shelf.base}`, () =>
      this.errno(() => this.process.mkdir(shelf.base)),
    );
    this.expect(errno === '' || errno === 'EEXIST', () => `mkdir ${shelf.base}: ${errno}`);
    for (let at = 0; at < SHARED_FILES; at++) {
      const path = `${shelf.base}/shared${at}`;
      await this.does(`make ${path}`, async () => {
        const file = await this.process.open(path, O_WRONLY | O_CREAT);
        await this.process.fsync(file);
        await this.process.close(file);
      });
    }
  }

  async #step(shelf: Shelf): Promise<void> {
    const shared = `${shelf.base}/shared${this.rng.below(SHARED_FILES)}`;
    const { size } = shelf.names;
    const own = size === 0 ? undefined : this.rng.pick([...shelf.names.keys()]);
    switch (
      this.rng.weighted({
        make: 4,
        rename: 4,
        replace: 1,
        chmod: 3,
        unlink: 3,
        list: 0.3,
        set: 2,
        look: 1,
        handle: 1,
      })
    ) {
      case 'make':
        return size < NAMES_MAX ? this.#make(shelf) : undefined;
      case 'rename':
        return own === undefined ? undefined : this.#rename(shelf, own, this.#newName());
      case 'replace':
        return size < 2 || own === undefined
          ? undefined
          : this.#rename(shelf, own, this.rng.pick([...shelf.names.keys()]));
      case 'chmod':
        return own === undefined ? undefined : this.#chmod(shelf, own);
      case 'unlink':
        return own === undefined ? undefined : this.#unlink(shelf, own);
      case 'list':
        return this.#compare(shelf);
      case 'set':
        return this.#set(shared);
      case 'look':
        return this.#look(`stat ${shared}`, shared, async () => (await this.process.stat(shared)).mode);
      case 'handle':
        return this.#lookByHandle(shelf, shared);
    }
  }

  #newName(): string {
    this.#made += 1;
    return `${this.name}.${this.#made}`;
  }

  async #make({ base, names }: Shelf): Promise<void> {
    const name = this.#newName();
    await this.does(`make ${base}/${name}`, async () => {
      const file = await this.process.open(`${base}/${name}`, O_WRONLY | O_CREAT);
      if (this.rng.chance(0.3))
        await this.process.pwrite(file, 0, Buffer.alloc(this.rng.between(1, 9000), 1));
      await this.process.close(file);
      names.set(name, FIRST_MODE);
    });
  }

  async #rename({ base, names }: Shelf, from: string, to: string): Promise<void> {
    await this.does(`rename ${base}/${from} ${to}`, async () => {
      await this.process.rename(`${base}/${from}`, `${base}/${to}`);
      const mode = names.get(from) ?? 0;
      names.delete(from);
      names.set(to, mode);
    });
  }

  async #chmod({ base, names }: Shelf, name: string): Promise<void> {
    const mode = this.rng.below(PERMISSIONS + 1);
    await this.does(`chmod ${base}/${name} ${mode.toString(8)}`, async () => {
      await this.process.chmod(`${base}/${name}`, mode);
      names.set(name, mode);
    });
  }

  async #unlink({ base, names }: Shelf, name: string): Promise<void> {
    await this.does(`unlink ${base}/${name}`, async () => {
      await this.process.unlink(`${base}/${name}`);
      names.delete(name);
    });
  }

  async #set(path: string): Promise<void> {
    if (this.#shelves.areUsedUp) return;
    const mode = this.#shelves.nextMode();
    const write = this.#shelves.register(path).begins(this, registerValue(mode), this.world.scheduler.nowMs);
    await this.does(`chmod ${path} ${mode}`, async () => {
      await this.process.chmod(path, mode);
      write.endedMs = this.world.scheduler.nowMs;
    });
  }

  async #look(what: string, path: string, modeOf: () => Promise<number>): Promise<void> {
    const beganMs = this.world.scheduler.nowMs;
    await this.does(what, async () => {
      const value = registerValue(await modeOf());
      const bad = this.#shelves.register(path).read(value, beganMs, this.world.scheduler.nowMs);
      if (bad !== undefined) this.wrong(`the mode of ${path}: ${bad}`);
    });
  }

  async #lookByHandle({ opens }: Shelf, path: string): Promise<void> {
    const open = opens.get(path);
    if (open === undefined) {
      await this.does(`open ${path}`, async () => {
        opens.set(path, await this.process.open(path, O_RDONLY));
      });
      return;
    }
    await this.#look(`fstat ${path}`, path, async () => (await this.process.fstat(open)).mode);
    if (!this.rng.chance(0.2)) return;
    opens.delete(path);
    await this.does(`close ${path}`, () => this.process.close(open));
  }

  /** All names of its own are there, with their modes, and no others. */
  async #compare({ base, names, isSetUp }: Shelf): Promise<void> {
    if (!isSetUp) return;
    await this.does(`look through ${base}`, async () => {
      const there = (await this.process.readdir(base)).filter((name) => name.startsWith(`${this.name}.`));
      const expected = [...names.keys()].sort();
      this.expect(
        there.sort().join() === expected.join(),
        () => `${base} holds ${there.join(' ')}, not ${expected.join(' ')}`,
      );
      for (const [name, mode] of names) {
        const seen = (await this.process.stat(`${base}/${name}`)).mode & PERMISSIONS;
        this.expect(
          seen === mode,
          () => `${base}/${name} has mode ${seen.toString(8)}, not ${mode.toString(8)}`,
        );
      }
    });
  }
}
