/** Times calls and keeps errors. */
export class Meter {
  operations = 0;
  phase = 'start';
  readonly errors: string[] = [];
  readonly longest: Record<string, { call: string; ms: number }> = {};

  /** Runs one system call and counts it. @throws the error of the call. */
  call<T>(name: string, run: () => T): T {
    const before = performance.now();
    try {
      return run();
    } finally {
      const ms = performance.now() - before;
      this.operations += 1;
      const longest = this.longest[this.phase];
      if (longest === undefined || longest.ms < ms) this.longest[this.phase] = { call: name, ms };
    }
  }

  check(condition: boolean, what: string): void {
    if (!condition) this.fail(what);
  }

  fail(what: string): void {
    if (this.errors.length < 20) this.errors.push(what);
  }
}
