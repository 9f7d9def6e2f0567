/** Sleeping locks of the simulated kernel: first come, first served. */

export class RwLock {
  #readers = 0;
  #writing = false;
  readonly #queue: { readonly write: boolean; readonly go: () => void }[] = [];

  /** @returns the release. */
  async acquire(write: boolean): Promise<() => void> {
    if (this.#queue.length > 0 || !this.#fits(write)) {
      await new Promise<void>((go) => {
        this.#queue.push({ write, go });
      });
    } else {
      this.#take(write);
    }
    return () => {
      if (write) this.#writing = false;
      else this.#readers -= 1;
      this.#wake();
    };
  }

  #fits(write: boolean): boolean {
    return !this.#writing && (!write || this.#readers === 0);
  }
  #take(write: boolean): void {
    if (write) this.#writing = true;
    else this.#readers += 1;
  }
  #wake(): void {
    for (let next = this.#queue[0]; next !== undefined && this.#fits(next.write); next = this.#queue[0]) {
      this.#queue.shift();
      this.#take(next.write);
      next.go();
    }
  }
}
