/**
 * What the store needs of the meta device: one ordered tree of records with durable transactions, and the raw bytes
 * below it. meta_probe.ts looks at those bytes before anything trusts them. A server uses lmdb on the raw device
 * (lmdb_store.ts); a simulator brings its own medium, with the crashes that a real one has.
 */

/** Fills the whole target with the bytes from offset on. */
export type ReadAt = (offset: number, target: Buffer) => Promise<void>;

export interface Writer {
  /** `value` must not change until the commit is over. */
  put(key: Buffer, value: Buffer): void;
  remove(key: Buffer): void;
}

/** Content on the data device: whole blocks. */
export interface ContentPiece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export interface CommitOptions {
  /**
   * Content that was written to the data device and that no flush covers: the transaction makes it durable too. Only for
   * a database that carries content. undefined: a flush covers all content that was written before.
   */
  readonly content?: readonly ContentPiece[] | undefined;
  /** The changes must be in the tree when this resolves, and all earlier ones. */
  readonly through?: boolean | undefined;
  /** The superblock of this transaction says so: with it commits begin to go to the redo log, or the log ends. */
  readonly log?: 'begins' | 'ends' | undefined;
}

/** What the tree takes, and will take. */
export interface TreeUse {
  /** Pages of the device in use: those of the tree and of the free list, and the two meta pages. */
  readonly usedPages: number;
  /** No page behind this one is in use, or was. */
  readonly lastPage: number;
  /** Changes that the last transaction wrote to the tree, but for those that every transaction makes. */
  readonly lastRecords: number;
  /** Such changes that are durable and not in the tree yet, and the bytes of all that are not. */
  readonly waitingRecords: number;
  readonly waitingBytes: number;
}

export interface MetaDatabase {
  /** @returns a view that the next call overwrites. */
  get(key: Buffer): Buffer | undefined;
  /**
   * Brings the pages of these records into memory in the background: a get() of a page that is not in memory blocks the
   * process.
   */
  prefetch(keys: readonly Buffer[]): void;
  /** Records with start <= key < end, in key order, at most limit records. Keys and values are copies. */
  range(start: Buffer, end: Buffer, limit?: number): Iterable<{ key: Buffer; value: Buffer }>;
  /**
   * Commits everything that `write` puts and removes, in one transaction. Resolves when it is durable. One commit at a
   * time. @throws FsError EIO
   */
  commit(write: (writer: Writer) => void, options?: CommitOptions): Promise<void>;
  /** Most bytes of content that a commit makes durable along with its records; 0: the caller flushes first. */
  readonly carriesBytes: number;
  use(): TreeUse;
  /** Waits for a running commit. */
  close(): Promise<void>;
}

/** The bytes of the redo log, past this host's caches. Offsets are those of the meta device, multiples of 4096. */
export interface LogDevice {
  /** @returns fresh memory. @throws FsError EIO */
  read(offset: number, lengthBytes: number): Promise<Buffer>;
  /** Durable when it resolves. @throws FsError EIO */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export interface MetaMedium {
  /**
   * Open only a device that probeSuperblock looked at before, or that mkfs wiped. judges: the caller looks at all
   * records, and finds out itself which are damaged and which are missing.
   */
  open(options?: { readonly readOnly?: boolean; readonly judges?: boolean }): MetaDatabase;
  /** Reads the device directly, not through the database. */
  withRawReader<R>(use: (read: ReadAt) => Promise<R>): Promise<R>;
  openLog(): Promise<LogDevice>;
  /** Writes these pieces to the device directly, not through the database, durably. */
  writeRaw(pieces: readonly { readonly offset: number; readonly bytes: Buffer }[]): Promise<void>;
}
