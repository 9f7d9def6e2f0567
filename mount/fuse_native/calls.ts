/**
 * What every operation of the fuse-native driver needs: a caller's context, the walk from a path to a nodeid, the table
 * of descriptors, and an answer.
 *
 * Invariant: each operation calls its callback exactly once. Its thread in libfuse waits for that call.
 */

import { errnoOf, FsError } from '../../src/base/errno.js';
import { logger } from '../../src/base/log.js';
import { OPCODE, type OpcodeName } from '../../src/fuse/constants.js';
import type { EntryOut, FuseHandlers, RequestContext } from '../../src/fuse/handlers.js';
import type { WaitingRequest } from '../fuse_mount.js';
import { NodeReferences, pathNames, walk } from './paths.js';

const log = logger('mount');

/** Called with a negative errno or the result, then further values. */
export type Callback = (result: number, ...values: unknown[]) => void;

interface OpenFile {
  readonly nodeid: number;
  readonly fh: number;
  readonly flags: number;
}

/** fuse-native passes descriptors as signed 32-bit integers, and takes 0 for "none". */
const DESCRIPTOR_MAX = 0x7fff_ffff;
/** Nodes that we do not forget although no operation uses them at the moment. */
const REFERENCES_KEPT = 4096;

export class FuseNativeCalls {
  protected readonly handlers: FuseHandlers;
  readonly references: NodeReferences;
  readonly #files = new Map<number, OpenFile>();
  readonly #running = new Map<RequestContext, WaitingRequest>();
  readonly #ended = new AbortController();
  readonly #uid = process.geteuid?.() ?? 0;
  readonly #gid = process.getegid?.() ?? 0;
  #nextDescriptor = 1;

  constructor(handlers: FuseHandlers, referencesKept = REFERENCES_KEPT) {
    this.handlers = handlers;
    this.references = new NodeReferences(handlers, referencesKept);
  }

  waiting(): readonly WaitingRequest[] {
    return [...this.#running.values()];
  }

  get openCount(): number {
    return this.#files.size;
  }

  /** The mount is gone: waiting operations end with EINTR, and all nodes are forgotten. */
  end(): void {
    this.#ended.abort(new FsError('EINTR', 'the mount is gone'));
    this.references.forgetAll();
  }

  /** Runs one operation and answers it. */
  protected run<T>(
    operation: OpcodeName,
    done: Callback,
    work: (request: RequestContext) => Promise<T>,
    answer: (value: T) => void = () => done(0),
  ): void {
    const { signal } = this.#ended;
    const request: RequestContext = {
      opcode: OPCODE[operation],
      uid: this.#uid,
      gid: this.#gid,
      pid: 0,
      signal,
    };
    this.#running.set(request, { operation, nodeid: 0, pid: 0 });
    work(request).then(
      (value) => {
        this.#running.delete(request);
        answer(value);
      },
      (error: unknown) => {
        this.#running.delete(request);
        if (!(error instanceof FsError)) log('%s failed by a bug: %O', operation, error);
        done(-errnoOf(error));
      },
    );
  }

  /** Runs work on the node to which a path leads. */
  protected async at<T>(
    request: RequestContext,
    path: string,
    work: (nodeid: number) => T | Promise<T>,
  ): Promise<T> {
    const nodeid = await walk(this.handlers, this.references, request, pathNames(path));
    try {
      return await work(nodeid);
    } finally {
      this.references.unpin(nodeid);
    }
  }

  /** Runs work on the last name of a path, in its directory. */
  protected async inParent<T>(
    request: RequestContext,
    path: string,
    work: (parent: number, name: string) => T | Promise<T>,
  ): Promise<T> {
    const names = pathNames(path);
    const name = names.pop();
    if (name === undefined) throw new FsError('EBUSY', 'the root has no name');
    const parent = await walk(this.handlers, this.references, request, names);
    try {
      return await work(parent, name);
    } finally {
      this.references.unpin(parent);
    }
  }

  protected file(descriptor: number): OpenFile {
    const file = this.#files.get(descriptor);
    if (file === undefined) throw new FsError('EBADF', `no descriptor ${descriptor}`);
    return file;
  }

  /** Removes the descriptor; the caller still has to unpin its node. */
  protected closeFile(descriptor: number): OpenFile {
    const file = this.file(descriptor);
    this.#files.delete(descriptor);
    return file;
  }

  /** Gives an open file a descriptor. Its node stays pinned until release. */
  protected describe(file: OpenFile): number {
    let descriptor = this.#nextDescriptor;
    while (this.#files.has(descriptor)) descriptor = (descriptor % DESCRIPTOR_MAX) + 1;
    this.#nextDescriptor = (descriptor % DESCRIPTOR_MAX) + 1;
    this.#files.set(descriptor, file);
    return descriptor;
  }

  /** An operation has made an entry: counts its lookup; the node is not needed any more. */
  protected made(entry: EntryOut): void {
    this.references.unpin(this.references.addPinned(entry));
  }
}
