/**
 * The file system as it should be: a tree in memory with the same calls and the same errnos. One process owns a tree, so
 * its calls have one right answer each.
 */

import type { Errno } from '../../src/base/errno.js';

export class ModelError extends Error {
  override name = 'ModelError';
  readonly code: Errno;
  constructor(code: Errno) {
    // The answer of a call, and nothing that anybody looks for: a stack would take longer than the call.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    super(code);
    Error.stackTraceLimit = stackTraceLimit;
    this.code = code;
  }
}

export interface ModelNode {
  readonly kind: 'file' | 'dir' | 'symlink';
  mode: number;
  nlink: number;
  content: Buffer;
  readonly entries: Map<string, ModelNode>;
  readonly xattrs: Map<string, string>;
  readonly target: string;
}

function makeNode(kind: ModelNode['kind'], mode: number, target = ''): ModelNode {
  const nlink = kind === 'dir' ? 2 : 1;
  const content = Buffer.alloc(0);
  return { kind, mode, nlink, content, entries: new Map(), xattrs: new Map(), target };
}

interface Place {
  readonly parent: ModelNode;
  readonly name: string;
  readonly node: ModelNode | undefined;
}

export class Model {
  readonly root = makeNode('dir', 0o755);

  /** @throws ModelError ENOENT, ENOTDIR */
  place(path: string): Place {
    const parts = path.split('/').filter((part) => part !== '');
    const name = parts.pop() ?? '';
    let parent = this.root;
    for (const part of parts) {
      const next = parent.entries.get(part);
      if (next === undefined) throw new ModelError('ENOENT');
      if (next.kind !== 'dir') throw new ModelError('ENOTDIR');
      parent = next;
    }
    return { parent, name, node: parent.entries.get(name) };
  }

  node(path: string): ModelNode {
    if (path === '/') return this.root;
    const { node } = this.place(path);
    if (node === undefined) throw new ModelError('ENOENT');
    return node;
  }

  #absent(path: string): Place {
    const place = this.place(path);
    if (place.node !== undefined) throw new ModelError('EEXIST');
    return place;
  }

  mkdir(path: string, mode: number): void {
    const { parent, name } = this.#absent(path);
    parent.entries.set(name, makeNode('dir', mode));
    parent.nlink += 1;
  }
  symlink(target: string, path: string): void {
    const { parent, name } = this.#absent(path);
    parent.entries.set(name, makeNode('symlink', 0o777, target));
  }
  create(path: string, mode: number): ModelNode {
    const { parent, name } = this.#absent(path);
    const node = makeNode('file', mode);
    parent.entries.set(name, node);
    return node;
  }
  link(from: string, to: string): void {
    const node = this.node(from);
    const { parent, name } = this.#absent(to);
    parent.entries.set(name, node);
    node.nlink += 1;
  }
  unlink(path: string): void {
    const { parent, name, node } = this.place(path);
    if (node === undefined) throw new ModelError('ENOENT');
    if (node.kind === 'dir') throw new ModelError('EISDIR');
    parent.entries.delete(name);
    node.nlink -= 1;
  }
  rmdir(path: string): void {
    const { parent, name, node } = this.place(path);
    if (node === undefined) throw new ModelError('ENOENT');
    if (node.kind !== 'dir') throw new ModelError('ENOTDIR');
    if (node.entries.size > 0) throw new ModelError('ENOTEMPTY');
    parent.entries.delete(name);
    parent.nlink -= 1;
    node.nlink = 0;
  }
  rename(from: string, to: string): void {
    const source = this.place(from);
    const target = this.place(to);
    const { node } = source;
    if (node === undefined) throw new ModelError('ENOENT');
    if (node.kind === 'dir' && inside(node, target.parent)) throw new ModelError('EINVAL');
    const replaced = target.node;
    if (replaced === node) return;
    // A directory above the source: the kernel says so before it looks at the kinds.
    if (replaced !== undefined && inside(replaced, source.parent)) throw new ModelError('ENOTEMPTY');
    if (replaced !== undefined) {
      if (node.kind === 'dir' && replaced.kind !== 'dir') throw new ModelError('ENOTDIR');
      if (node.kind !== 'dir' && replaced.kind === 'dir') throw new ModelError('EISDIR');
      if (replaced.entries.size > 0) throw new ModelError('ENOTEMPTY');
      replaced.nlink = replaced.kind === 'dir' ? 0 : replaced.nlink - 1;
      if (replaced.kind === 'dir') target.parent.nlink -= 1;
    }
    source.parent.entries.delete(source.name);
    target.parent.entries.set(target.name, node);
    if (node.kind === 'dir') {
      source.parent.nlink -= 1;
      target.parent.nlink += 1;
    }
  }
  setxattr(path: string, name: string, value: string): void {
    this.node(path).xattrs.set(name, value);
  }
  removexattr(path: string, name: string): void {
    if (!this.node(path).xattrs.delete(name)) throw new ModelError('ENODATA');
  }

  /** Every path below the root, parents first. */
  walk(): { readonly path: string; readonly node: ModelNode }[] {
    const found: { path: string; node: ModelNode }[] = [];
    const visit = (path: string, dir: ModelNode): void => {
      for (const [name, node] of [...dir.entries].sort(([a], [b]) => (a < b ? -1 : 1))) {
        found.push({ path: `${path}/${name}`, node });
        if (node.kind === 'dir') visit(`${path}/${name}`, node);
      }
    };
    visit('', this.root);
    return found;
  }
}

export function resize(node: ModelNode, sizeBytes: number): void {
  const kept = node.content.subarray(0, sizeBytes);
  node.content = Buffer.concat([kept, Buffer.alloc(sizeBytes - kept.length)]);
}

export function put(node: ModelNode, offset: number, data: Uint8Array): void {
  if (offset + data.length > node.content.length) resize(node, offset + data.length);
  else node.content = Buffer.from(node.content);
  node.content.set(data, offset);
}

function inside(dir: ModelNode, node: ModelNode): boolean {
  if (dir === node) return true;
  for (const entry of dir.entries.values()) if (entry.kind === 'dir' && inside(entry, node)) return true;
  return false;
}

/** The errno that a call of the model fails with; '' when it does not. */
export function modelErrno(run: () => void): string {
  try {
    run();
    return '';
  } catch (error) {
    if (error instanceof ModelError) return error.code;
    throw error;
  }
}

/** The node, if there is one. */
export function found(run: () => ModelNode): ModelNode | undefined {
  try {
    return run();
  } catch (error) {
    if (error instanceof ModelError) return undefined;
    throw error;
  }
}
