/**
 * A process that fills a tiny target: files of all sizes with long names, xattrs, hard links, unlinked files that stay
 * open, allocated space. Any call that needs room may fail with ENOSPC, and then changes nothing; a file whose content
 * found no room is removed. Calls that give room back never fail.
 */

import type { ClientNode } from './client_node.js';
import { compareTree } from './compare_tree.js';
import { FALLOC_KEEP_SIZE, O_CREAT, type OpenFile } from './file_calls.js';
import { Model, type ModelNode, put, resize } from './model.js';
import { SystemError } from './system_error.js';
import { type Promised, TreeKeeper } from './tree_keeper.js';
import { Disturbed } from './worker.js';
import type { World } from './world.js';

export const O_RDWR = 2;
export const NAME_CHARACTERS = 150;
const OPEN_MAX = 4;
const RETRY_MS = 20;

const WEIGHTS = {
  create: 14,
  setxattr: 8,
  link: 4,
  chmod: 2,
  unlink: 3,
  unlinkOpen: 2,
  dropOpen: 2,
  allocate: 3,
  overwrite: 3,
  truncate: 2,
  check: 3,
  removeHalf: 0.2,
} as const;

/** @throws whatever else it is. */
export function isNoSpace(error: unknown): boolean {
  if (error instanceof SystemError && error.code === 'ENOSPC') return true;
  throw error;
}

export class FillerWorker extends TreeKeeper {
  readonly model = new Model();
  readonly base: string;
  readonly #count: number;
  /** Names that an fsync has made durable. */
  #promised = new Map<string, ModelNode>();
  readonly #synced = new Map<ModelNode, Buffer>();
  /** Unlinked and open. */
  readonly #orphans: { readonly file: OpenFile; readonly content: Buffer }[] = [];
  #made = 0;
  /** Calls by their kind, and those of them that found no room. */
  readonly done = new Map<string, number>();

  constructor(world: World, node: ClientNode, name: string, count: number) {
    super(world, node, name);
    this.base = `/${name}`;
    this.#count = count;
  }

  promised(): Promised[] {
    return [...this.#promised].map(([path, node]) => ({
      path,
      kind: node.kind,
      content: this.#synced.get(node),
    }));
  }

  protected async work(): Promise<void> {
    while (!(await this.#finds(`mkdir ${this.base}`, () => this.process.mkdir(this.base)))) {
      if (this.isStopping) throw new Disturbed('there was no room for its folder');
      await this.world.sleep(RETRY_MS);
    }
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      await this.#step();
      if (this.rng.chance(0.1)) await this.think();
    }
    while (this.#orphans.length > 0) await this.#dropOpen();
    await compareTree(this.process, this.base, this.model, (what) => this.wrong(what));
  }

  /** @returns whether there was room. */
  async #finds(what: string, run: () => Promise<unknown>): Promise<boolean> {
    try {
      await this.does(what, run);
      this.#counted(`${what.split(' ')[0]}`);
      return true;
    } catch (error) {
      isNoSpace(error);
      this.#counted(`ENOSPC of ${what.split(' ')[0]}`);
      return false;
    }
  }

  #counted(what: string): void {
    this.done.set(what, (this.done.get(what) ?? 0) + 1);
  }

  #step(): Promise<void> {
    const paths = [...this.model.root.entries.keys()];
    const path = paths.length === 0 ? undefined : `/${this.rng.pick(paths)}`;
    const what = this.rng.weighted(WEIGHTS);
    if (what === 'create' || path === undefined) return this.#create();
    switch (what) {
      case 'setxattr':
        return this.#setxattr(path);
      case 'link':
        return this.#link(path);
      case 'chmod':
        return this.#chmod(path);
      case 'unlink':
        return this.#unlink(path);
      case 'unlinkOpen':
        return this.#unlinkOpen(path);
      case 'dropOpen':
        return this.#dropOpen();
      case 'allocate':
        return this.#allocate(path);
      case 'overwrite':
        return this.#overwrite(path);
      case 'truncate':
        return this.#truncate(path);
      case 'check':
        return this.#check(path);
      case 'removeHalf':
        return this.#removeHalf(paths);
    }
  }

  #newPath(): string {
    this.#made += 1;
    return `/${String(this.#made).padEnd(this.rng.pick([8, NAME_CHARACTERS, 255]), 'n')}`;
  }

  async #create(): Promise<void> {
    const path = this.#newPath();
    let file: OpenFile | undefined;
    const isMade = await this.#finds(`create ${path.slice(0, 8)}`, async () => {
      file = await this.process.open(this.base + path, O_CREAT | O_RDWR);
    });
    if (!isMade || file === undefined) return;
    const node = this.model.create(path, 0o644);
    const sizeBytes = this.rng.pick([0, 3000, 3000, 3000, this.rng.below(200_000), this.rng.below(1 << 20)]);
    await this.#write(file, node, path, 0, sizeBytes);
  }

  /** Writes, perhaps syncs, and closes. */
  async #write(
    file: OpenFile,
    node: ModelNode,
    path: string,
    offset: number,
    lengthBytes: number,
  ): Promise<void> {
    const data = Buffer.alloc(lengthBytes, this.rng.between(1, 255));
    const what = `${path.slice(0, 8)} [${offset}, ${offset + lengthBytes})`;
    this.#synced.delete(node);
    put(node, offset, data);
    let written = 0;
    let hasRoom = await this.#finds(`write ${what}`, async () => {
      written = lengthBytes === 0 ? 0 : await this.process.pwrite(file, offset, data);
    });
    hasRoom &&= written === lengthBytes;
    if (hasRoom && this.rng.chance(0.4)) {
      const before = this.model.walk();
      hasRoom = await this.#finds(`fsync ${what}`, () => this.process.fsync(file));
      if (hasRoom) {
        this.#promised = new Map(before.map(({ path: at, node: there }) => [at, there]));
        this.#synced.set(node, node.content);
      }
    }
    if (!(await this.#finds(`close ${what}`, () => this.process.close(file)))) hasRoom = false;
    if (!hasRoom) await this.#removeNode(node);
  }

  /** Its content is not known. */
  async #removeNode(node: ModelNode): Promise<void> {
    for (const { path, node: there } of this.model.walk()) if (there === node) await this.#unlink(path);
  }

  async #unlink(path: string): Promise<void> {
    this.#promised.delete(path);
    await this.does(`unlink ${path.slice(0, 8)}`, () => this.process.unlink(this.base + path));
    this.model.unlink(path);
  }

  async #removeHalf(names: readonly string[]): Promise<void> {
    for (const name of names) if (this.rng.chance(0.5)) await this.#unlink(`/${name}`);
  }

  async #setxattr(path: string): Promise<void> {
    const length = this.rng.pick([10, 3000, 30_000, 60_000]);
    const value = String.fromCharCode(this.rng.between(97, 122)).repeat(length);
    const set = (): Promise<void> => this.process.setxattr(this.base + path, 'user.x', value);
    if (await this.#finds(`setxattr ${path.slice(0, 8)} ${length}`, set)) {
      this.model.setxattr(path, 'user.x', value);
    }
  }

  async #link(path: string): Promise<void> {
    const to = this.#newPath();
    const link = (): Promise<void> => this.process.link(this.base + path, this.base + to);
    if (await this.#finds(`link ${path.slice(0, 8)} ${to.slice(0, 8)}`, link)) this.model.link(path, to);
  }

  /** Adds no bytes: there is always room for it. */
  async #chmod(path: string): Promise<void> {
    const mode = this.rng.pick([0o600, 0o644, 0o755]);
    await this.does(`chmod ${path.slice(0, 8)}`, () => this.process.chmod(this.base + path, mode));
    this.model.node(path).mode = mode;
  }

  async #unlinkOpen(path: string): Promise<void> {
    if (this.#orphans.length === OPEN_MAX) return this.#dropOpen();
    const node = this.model.node(path);
    const file = await this.does(`open ${path.slice(0, 8)}`, () =>
      this.process.open(this.base + path, O_RDWR),
    );
    await this.#unlink(path);
    if (node.nlink === 0) this.#orphans.push({ file, content: node.content });
    else await this.does(`close ${path.slice(0, 8)}`, () => this.process.close(file));
  }

  async #dropOpen(): Promise<void> {
    const orphan = this.#orphans.shift();
    if (orphan === undefined) return;
    const { file, content } = orphan;
    await this.does('read and close an unlinked file', async () => {
      const got = await this.process.pread(file, 0, content.length + 1);
      this.expect(got.equals(content), () => 'an unlinked file is not what was written');
      await this.process.close(file);
    });
  }

  async #allocate(path: string): Promise<void> {
    const node = this.model.node(path);
    const [file, mode] = [await this.#open(path), this.rng.pick([0, FALLOC_KEEP_SIZE])];
    const end = node.content.length + this.rng.between(1, 300_000);
    this.#synced.delete(node);
    const isDone = await this.#finds(`fallocate ${path.slice(0, 8)} ${mode} to ${end}`, () =>
      this.process.fallocate(file, mode, 0, end),
    );
    if (isDone && mode === 0) resize(node, end);
    await this.does(`close ${path.slice(0, 8)}`, () => this.process.close(file));
  }

  #open(path: string): Promise<OpenFile> {
    return this.does(`open ${path.slice(0, 8)}`, () => this.process.open(this.base + path, O_RDWR));
  }

  async #overwrite(path: string): Promise<void> {
    const node = this.model.node(path);
    const file = await this.#open(path);
    const offset = this.rng.below(node.content.length + 1);
    await this.#write(file, node, path, offset, this.rng.between(1, 10_000));
  }

  async #truncate(path: string): Promise<void> {
    const node = this.model.node(path);
    this.#synced.delete(node);
    await this.does(`truncate ${path.slice(0, 8)}`, () => this.process.truncate(this.base + path, 0));
    resize(node, 0);
  }

  async #check(path: string): Promise<void> {
    const { content } = this.model.node(path);
    await this.does(`check ${path.slice(0, 8)}`, async () => {
      const file = await this.process.open(this.base + path, O_RDWR);
      const got = await this.process.pread(file, 0, content.length + 1);
      this.expect(got.equals(content), () => `${path.slice(0, 8)} is not what was written`);
      await this.process.close(file);
    });
  }
}
