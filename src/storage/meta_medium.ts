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
   * Commits everything that `write` puts and removes, in one transaction. Resolves when it is durable. @throws FsError
   * EIO
   */
  commit(write: (writer: Writer) => void): Promise<void>;
  /** Pages of the device in use: those of the tree and of the free list, and the two meta pages. */
  usedPages(): number;
  /** Waits for a running commit. */
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
  /** Writes these pieces to the device directly, not through the database, durably. */
  writeRaw(pieces: readonly { readonly offset: number; readonly bytes: Buffer }[]): Promise<void>;
}
