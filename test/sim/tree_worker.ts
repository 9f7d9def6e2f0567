/**
 * A process with a tree of its own: random calls, each compared with the model at once, and the whole tree at the end.
 *
 * At each fsync everything before it has become durable. What was not touched since is promised even to the next process,
 * whatever becomes of this one's client.
 */

import { type Attr, O_TRUNC } from '../../src/base/attr.js';
import type { ClientNode } from './client_node.js';
import { compareTree } from './compare_tree.js';
import { O_CREAT, type OpenFile } from './file_calls.js';
import { found, Model, ModelError, type ModelNode, modelErrno, put, resize } from './model.js';
import { SystemError } from './system_error.js';
import { type Promised, TreeKeeper } from './tree_keeper.js';
import type { World } from './world.js';

const NAMES = ['a', 'b', 'c', 'd', 'e'] as const;
const OPEN_MAX = 4;
const O_RDONLY = 0;
const O_RDWR = 2;

interface OpenModel {
  readonly file: OpenFile;
  readonly node: ModelNode;
  readonly path: string;
}

const WEIGHTS = {
  create: 8,
  write: 12,
  read: 12,
  readByPath: 4,
  stat: 8,
  mkdir: 4,
  rmdir: 2,
  unlink: 4,
  rename: 5,
  link: 3,
  symlink: 1,
  readlink: 1,
  readdir: 4,
  truncate: 3,
  chmod: 2,
  setxattr: 2,
  getxattr: 2,
  removexattr: 1,
  fsync: 3,
  close: 5,
  mapped: 5,
  openTruncate: 1,
} as const;

export class TreeWorker extends TreeKeeper {
  readonly model = new Model();
  readonly base: string;
  readonly #opens: OpenModel[] = [];
  readonly #synced = new Map<ModelNode, Buffer>();
  #promised: readonly (Omit<Promised, 'content'> & { readonly node: ModelNode })[] = [];
  #touched = new Set<string>();
  /** Files that were written and closed, and not synced since. */
  readonly #unsynced = new Set<ModelNode>();
  readonly #count: number;
  /** Chance that a call follows the one before it at once. */
  readonly #burst: number;

  constructor(world: World, node: ClientNode, name: string, count: number) {
    super(world, node, name);
    this.base = `/${name}`;
    this.#count = count;
    this.#burst = this.rng.pick([0, 0.5, 0.95]);
  }

  protected async work(): Promise<void> {
    await this.does(`mkdir ${this.base}`, () => this.process.mkdir(this.base));
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      await this.#step();
      if (!this.rng.chance(this.#burst)) await this.think();
    }
    for (const open of this.#opens.splice(0)) await this.#close(open);
    await this.#compareAll();
  }

  protected override get hasClosedUnsynced(): boolean {
    return this.#unsynced.size > 0;
  }

  promised(): Promised[] {
    const isTouched = (path: string): boolean =>
      [...this.#touched].some((touched) => path === touched || path.startsWith(`${touched}/`));
    return this.#promised
      .filter(({ path }) => !isTouched(path))
      .map(({ path, kind, node }) => ({ path, kind, content: this.#synced.get(node) }));
  }

  async #step(): Promise<void> {
    const path = this.#path();
    const other = this.#path();
    const { process, model } = this;
    const open = this.#opens.length > 0 ? this.rng.pick(this.#opens) : undefined;
    switch (this.rng.weighted(WEIGHTS)) {
      case 'create':
        return this.#create(path, 0);
      case 'openTruncate':
        return this.#create(path, O_TRUNC);
      case 'write':
        return open && this.#write(open);
      case 'mapped':
        return open && this.#mapped(open);
      case 'read':
        return open && this.#read(open);
      case 'readByPath':
        return this.#readByPath(path);
      case 'stat':
        return this.#stat(path);
      case 'mkdir':
        return this.#both(
          `mkdir ${path}`,
          [path],
          () => model.mkdir(path, 0o755),
          () => process.mkdir(this.base + path),
        );
      case 'rmdir':
        return this.#both(
          `rmdir ${path}`,
          [path],
          () => model.rmdir(path),
          () => process.rmdir(this.base + path),
        );
      case 'unlink':
        return this.#both(
          `unlink ${path}`,
          [path],
          () => model.unlink(path),
          () => process.unlink(this.base + path),
        );
      case 'rename':
        return this.#both(
          `rename ${path} ${other}`,
          [path, other],
          () => model.rename(path, other),
          () => process.rename(this.base + path, this.base + other),
        );
      case 'link':
        return this.#link(path, other);
      case 'symlink':
        return this.#both(
          `symlink ${path}`,
          [path],
          () => model.symlink(other, path),
          () => process.symlink(other, this.base + path),
        );
      case 'readlink':
        return this.#readlink(path);
      case 'readdir':
        return this.#readdir(path);
      case 'truncate':
        return this.#truncate(path);
      case 'chmod':
        return this.#chmod(path);
      case 'setxattr':
        return this.#setxattr(path);
      case 'getxattr':
        return this.#getxattr(path);
      case 'removexattr':
        // The kernel refuses it before it asks anybody.
        if (found(() => model.node(path))?.kind === 'symlink') return undefined;
        return this.#both(
          `removexattr ${path}`,
          [path],
          () => model.removexattr(path, 'user.x'),
          () => process.removexattr(this.base + path, 'user.x'),
        );
      case 'fsync':
        return open && this.#fsync(open);
      case 'close':
        if (open !== undefined) this.#opens.splice(this.#opens.indexOf(open), 1);
        return open && this.#close(open);
    }
  }

  #path(): string {
    let path = '';
    for (let depth = this.rng.between(1, 3); depth > 0; depth--) path += `/${this.rng.pick(NAMES)}`;
    return path;
  }

  /** In the model and in the file system: the same errno, or none. */
  async #both(
    what: string,
    touches: readonly string[],
    inModel: () => void,
    inFs: () => Promise<unknown>,
  ): Promise<void> {
    for (const path of touches) this.#touched.add(path);
    const expected = modelErrno(inModel);
    await this.does(what, async () => {
      const got = await this.errno(inFs);
      this.expect(got === expected, () => `${what}: ${got || 'no error'}, not ${expected || 'no error'}`);
    });
  }

  async #create(path: string, extraFlags: number): Promise<void> {
    if (this.#opens.length >= OPEN_MAX) return;
    const flags = O_RDWR | (this.rng.chance(0.8) ? O_CREAT : 0) | extraFlags;
    let node: ModelNode | undefined;
    const expected = modelErrno(() => {
      const place = this.model.place(path);
      node = place.node;
      if (node === undefined && (flags & O_CREAT) === 0) throw new ModelError('ENOENT');
      node ??= this.model.create(path, 0o644);
      if (node.kind === 'dir') throw new ModelError('EISDIR');
      if (node.kind === 'symlink') throw new ModelError('ELOOP');
      if (extraFlags !== 0) resize(node, 0);
    });
    // The kernel follows links itself; this one does not.
    if (expected === 'ELOOP' || expected === 'EISDIR') return;
    this.#touched.add(path);
    if (node !== undefined && extraFlags !== 0) this.#synced.delete(node);
    let file: OpenFile | undefined;
    await this.does(`open ${path} ${flags.toString(8)}`, async () => {
      const got = await this.errno(async () => {
        file = await this.process.open(this.base + path, flags);
      });
      this.expect(
        got === expected,
        () => `open ${path}: ${got || 'no error'}, not ${expected || 'no error'}`,
      );
    });
    if (file !== undefined && node !== undefined) this.#opens.push({ file, node, path });
  }

  async #write({ file, node, path }: OpenModel): Promise<void> {
    const length = this.rng.chance(0.1) ? this.rng.between(1, 150_000) : this.rng.between(1, 6000);
    const offset = this.rng.chance(0.3) ? node.content.length : this.rng.below(30_000);
    const data = Buffer.alloc(length, this.rng.below(256));
    put(node, offset, data);
    this.#synced.delete(node);
    await this.does(`write ${path} [${offset}, ${offset + length}) of ${data[0]}`, async () => {
      const written = await this.process.pwrite(file, offset, data);
      this.expect(written === length, () => `write of ${length} bytes wrote ${written}`);
    });
  }

  async #mapped({ file, node, path }: OpenModel): Promise<void> {
    const { length } = node.content;
    if (length === 0) return;
    const offset = this.rng.below(length);
    const pageEnd = (Math.floor(offset / 4096) + 1) * 4096;
    const end = Math.min(length, pageEnd, offset + 200);
    if (this.rng.chance(0.5)) {
      const data = Buffer.alloc(end - offset, this.rng.below(256));
      put(node, offset, data);
      this.#synced.delete(node);
      await this.does(`store ${path} [${offset}, ${end}) of ${data[0]}`, () =>
        this.process.writeMapped(file, offset, data),
      );
      return;
    }
    const expected = node.content.subarray(offset, end);
    await this.does(`load ${path} [${offset}, ${end})`, async () => {
      this.#same(path, offset, await this.process.readMapped(file, offset, end - offset), expected);
    });
  }

  async #read({ file, node, path }: OpenModel): Promise<void> {
    const offset = this.rng.below(40_000);
    const length = this.rng.between(1, 20_000);
    const expected = node.content.subarray(offset, offset + length);
    await this.does(`read ${path} [${offset}, ${offset + length})`, async () => {
      this.#same(path, offset, await this.process.pread(file, offset, length), expected);
    });
  }

  async #readByPath(path: string): Promise<void> {
    const node = found(() => this.model.node(path));
    if (node?.kind !== 'file') return;
    await this.does(`read all of ${path}`, async () => {
      const file = await this.process.open(this.base + path, O_RDONLY);
      this.#same(path, 0, await this.process.pread(file, 0, 400_000), node.content);
      await this.process.close(file);
    });
  }

  #same(path: string, offset: number, got: Buffer, expected: Buffer): void {
    if (got.equals(expected)) return;
    let at = 0;
    while (at < got.length && at < expected.length && got[at] === expected[at]) at++;
    this.wrong(
      `${path} at ${offset + at}: ${got[at]}, not ${expected[at]} (${got.length} bytes, not ${expected.length})`,
    );
  }

  async #stat(path: string): Promise<void> {
    let attr: Attr | undefined;
    await this.#both(
      `stat ${path}`,
      [],
      () => this.model.node(path),
      async () => {
        attr = await this.process.stat(this.base + path);
      },
    );
    if (attr !== undefined) this.#sameAttr(path, attr, this.model.node(path));
  }

  #sameAttr(path: string, attr: Attr, node: ModelNode): void {
    const size = node.kind === 'file' ? node.content.length : attr.sizeBytes;
    const got = [attr.mode & 0o7777, attr.nlink, attr.sizeBytes].join(' ');
    const expected = [node.mode, node.nlink, size].join(' ');
    this.expect(got === expected, () => `mode, nlink, size of ${path}: ${got}, not ${expected}`);
  }

  async #link(from: string, to: string): Promise<void> {
    // Links to directories are refused by the kernel before anybody is asked.
    if (found(() => this.model.node(from))?.kind === 'dir') return;
    await this.#both(
      `link ${from} ${to}`,
      [from, to],
      () => this.model.link(from, to),
      () => this.process.link(this.base + from, this.base + to),
    );
  }

  async #readlink(path: string): Promise<void> {
    const node = found(() => this.model.node(path));
    if (node?.kind !== 'symlink') return;
    await this.does(`readlink ${path}`, async () => {
      const got = await this.process.readlink(this.base + path);
      this.expect(got === node.target, () => `readlink ${path}: ${got}, not ${node.target}`);
    });
  }

  async #readdir(path: string): Promise<void> {
    const node = found(() => this.model.node(path));
    if (node?.kind !== 'dir') return;
    const expected = [...node.entries.keys()].sort().join(' ');
    await this.does(`readdir ${path}`, async () => {
      const got = (await this.process.readdir(this.base + path)).join(' ');
      this.expect(got === expected, () => `readdir ${path}: ${got}, not ${expected}`);
    });
  }

  async #truncate(path: string): Promise<void> {
    const node = found(() => this.model.node(path));
    if (node?.kind !== 'file') return;
    const sizeBytes = this.rng.below(20_000);
    resize(node, sizeBytes);
    this.#synced.delete(node);
    this.#touched.add(path);
    await this.does(`truncate ${path} ${sizeBytes}`, () =>
      this.process.truncate(this.base + path, sizeBytes),
    );
  }

  async #chmod(path: string): Promise<void> {
    // An owner who is not root shuts himself out.
    const mode = this.rng.pick([0o600, 0o644, 0o400, 0o755]) | (this.world.isSquashed ? 0o700 : 0);
    const node = found(() => this.model.node(path));
    if (node?.kind === 'symlink') return;
    await this.#both(
      `chmod ${path} ${mode.toString(8)}`,
      [],
      () => {
        this.model.node(path).mode = mode;
      },
      () => this.process.chmod(this.base + path, mode),
    );
  }

  async #setxattr(path: string): Promise<void> {
    if (found(() => this.model.node(path))?.kind === 'symlink') return;
    const value = `v${this.rng.below(1000)}`;
    await this.#both(
      `setxattr ${path} ${value}`,
      [],
      () => this.model.setxattr(path, 'user.x', value),
      () => this.process.setxattr(this.base + path, 'user.x', value),
    );
  }

  async #getxattr(path: string): Promise<void> {
    const node = found(() => this.model.node(path));
    if (node === undefined) return;
    const expected = node.xattrs.get('user.x') ?? 'ENODATA';
    await this.does(`getxattr ${path}`, async () => {
      const got = await this.process.getxattr(this.base + path, 'user.x').catch((error: unknown) => {
        if (error instanceof SystemError) return error.code;
        throw error;
      });
      this.expect(got === expected, () => `getxattr ${path}: ${got}, not ${expected}`);
    });
  }

  async #fsync({ file, node, path }: OpenModel): Promise<void> {
    const before = this.model.walk();
    await this.does(`fsync ${path}`, () => this.process.fsync(file));
    this.#synced.set(node, node.content);
    this.#unsynced.delete(node);
    this.#touched = new Set();
    this.#promised = before.map(({ path: at, node: there }) => ({ path: at, kind: there.kind, node: there }));
  }

  async #close({ file, node, path }: OpenModel): Promise<void> {
    await this.does(`close ${path}`, () => this.process.close(file));
    if (node.content.length > 0 && !this.#synced.has(node)) this.#unsynced.add(node);
    if (node.nlink === 0) this.#synced.delete(node);
  }

  /** Everything, through the same client. */
  async #compareAll(): Promise<void> {
    await compareTree(this.process, this.base, this.model, (what) => this.wrong(what));
  }
}
