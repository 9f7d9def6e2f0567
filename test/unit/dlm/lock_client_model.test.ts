/**
 * The client's locks against random histories: release() runs once for each lock, each handle is given back once (not
 * at all when forgotten), never while a reference is held, and a lock that is cancelling is matched by nobody.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { LockHandle } from '../../../src/base/ids.js';
import type { CachedLock } from '../../../src/dlm/api.js';
import { LockClient } from '../../../src/dlm/lock_client.js';
import { data, fid, inode } from '../../worlds/dlm_world.js';

const step = fc.record({
  do: fc.constantFrom(
    ...([
      'add',
      'add',
      'add',
      'called',
      'early',
      'ref',
      'ref',
      'unref',
      'unref',
      'finish',
      'finish',
    ] as const),
    ...(['turn', 'turn', 'drain', 'forget'] as const),
  ),
  pick: fc.nat(100),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class Model {
  readonly kept: CachedLock[] = [];
  readonly refs = new Map<CachedLock, number>();
  readonly releases = new Map<CachedLock, () => void>();
  readonly released = new Set<CachedLock>();
  readonly returned: LockHandle[] = [];
  readonly forgotten = new Set<LockHandle>();
  readonly pending: Promise<unknown>[] = [];
  draining = false;
  /** What was locked: whether it is. */
  readonly things = new Map<string, boolean>();
  #next = 1;
  readonly locks = new LockClient({
    maxLocks: 6,
    callbacks: {
      release: (lock) => {
        assert.ok(lock.cancelling && !this.released.has(lock), 'released twice');
        this.released.add(lock);
        // Some have nothing to drop.
        if (lock.fid % 3 === 0) return undefined;
        return new Promise((resolve) => this.releases.set(lock, resolve));
      },
      gone: (type, fid) => {
        assert.ok(!this.locks.holds(type, fid) && this.locks.find(type, fid, 'PR', 0) === undefined);
        assert.equal(this.things.get(`${type} ${fid}`), true, 'gone twice');
        this.things.set(`${type} ${fid}`, false);
      },
      cancel: (handles) => this.giveBack(handles),
    },
  });

  giveBack(handles: readonly LockHandle[]): void {
    for (const handle of handles) {
      assert.ok(
        !this.returned.includes(handle) && !this.forgotten.has(handle),
        'given back twice, or forgotten',
      );
      const lock = this.kept.find((other) => other.handle === handle);
      assert.ok(lock !== undefined && this.released.has(lock) && !this.releases.has(lock), 'not released');
      assert.equal(this.refs.get(lock) ?? 0, 0, 'given back while in use');
      this.returned.push(handle);
    }
  }

  get alive(): CachedLock[] {
    return this.kept.filter(
      (lock) => !this.returned.includes(lock.handle) && !this.forgotten.has(lock.handle),
    );
  }

  async run({ do: what, pick }: Step): Promise<void> {
    const { locks } = this;
    const one = this.alive[pick % Math.max(1, this.alive.length)];
    switch (what) {
      case 'add': {
        const spec = pick % 2 === 0 ? inode(1 + (pick % 7), 'PR') : data(1 + (pick % 3), 'PW');
        this.things.set(`${spec.type} ${spec.fid}`, true);
        this.kept.push(locks.add({ ...spec, handle: this.#next++ as LockHandle }));
        return;
      }
      case 'early':
        locks.called(this.#next as LockHandle);
        return;
      case 'called':
        if (one !== undefined) locks.called(one.handle);
        return;
      case 'ref': {
        const found =
          locks.find('inode', fid(1 + (pick % 7)), 'PR', 1) ?? locks.match('data', fid(1), 'PR', 0);
        if (found === undefined) return;
        locks.addRef(found);
        this.refs.set(found, (this.refs.get(found) ?? 0) + 1);
        return;
      }
      case 'unref':
        this.unref([...this.refs.keys()][pick % Math.max(1, this.refs.size)]);
        return;
      case 'finish':
        this.finish([...this.releases.keys()][pick % Math.max(1, this.releases.size)]);
        return;
      case 'turn':
        for (let i = 0; i < 20; i++) await Promise.resolve();
        return;
      case 'drain':
        if (!this.draining) this.drain();
        return;
      case 'forget':
        // What already left in a batch was given back; all else is forgotten.
        for (let i = 0; i < 20; i++) await Promise.resolve();
        for (const lock of this.alive) this.forgotten.add(lock.handle);
        this.pending.push(locks.forgetAll());
        assert.equal(locks.size, 0);
    }
  }

  drain(): void {
    this.draining = true;
    this.pending.push(
      this.locks.cancelAll().then((handles) => {
        this.draining = false;
        this.giveBack(handles);
      }),
    );
  }

  unref(lock: CachedLock | undefined): void {
    if (lock === undefined) return;
    const left = (this.refs.get(lock) ?? 0) - 1;
    if (left === 0) this.refs.delete(lock);
    else this.refs.set(lock, left);
    this.locks.dropRef(lock);
  }

  finish(lock: CachedLock | undefined): void {
    if (lock === undefined) return;
    this.releases.get(lock)?.();
    this.releases.delete(lock);
  }

  check(): void {
    this.locks.checkInvariants();
    for (let i = 1; i <= 7; i++) {
      for (const type of ['inode', 'data'] as const) {
        const found = this.locks.match(type, fid(i), 'PR', 0);
        assert.ok(found === undefined || (!found.cancelling && this.alive.includes(found)));
      }
    }
  }

  async end(): Promise<void> {
    for (let round = 0; this.locks.size > 0 || this.draining || this.releases.size > 0; round++) {
      assert.ok(round < 1000, 'a lock is never given back');
      // One that was forgotten under way does not take locks that came after.
      if (!this.draining) this.drain();
      for (const lock of [...this.refs.keys()]) this.unref(lock);
      for (const lock of [...this.releases.keys()]) this.finish(lock);
      for (let i = 0; i < 20; i++) await Promise.resolve();
    }
    await Promise.all(this.pending);
    assert.deepEqual([this.alive, this.released.size], [[], this.kept.length]);
    assert.ok(![...this.things.values()].includes(true), 'the last lock went, and nobody was told');
  }
}

test('random histories release each lock once and give each back once', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 80 }), async (steps) => {
      const model = new Model();
      for (const step of steps) {
        await model.run(step);
        model.check();
      }
      await model.end();
    }),
    { numRuns: 500 },
  );
});
