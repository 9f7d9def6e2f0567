/** The demo's live view: a redrawn block in a terminal, plain lines elsewhere. */

export interface View {
  /** Shows an event in a line that stays. */
  event(text: string): void;
  /** Replaces the block below the events; draws it only in a terminal. */
  update(lines: readonly string[]): void;
  /** Leaves the last state of the block on the screen. */
  end(): void;
}

export function startView(output: NodeJS.WriteStream, sinceMs: () => number): View {
  const live = output.isTTY === true;
  let drawn = 0;
  let block: readonly string[] = [];
  const erase = (): void => {
    if (drawn > 0) output.write(`\x1b[${drawn}A\x1b[J`);
    drawn = 0;
  };
  const draw = (): void => {
    if (!live) return;
    const width = Math.max(20, (output.columns ?? 100) - 1);
    for (const line of block) output.write(`${line.slice(0, width)}\n`);
    drawn = block.length;
  };
  return {
    event(text) {
      erase();
      output.write(`[${(sinceMs() / 1000).toFixed(2).padStart(6)} s] ${text}\n`);
      draw();
    },
    update(lines) {
      erase();
      block = lines;
      draw();
    },
    end() {
      block = [];
      drawn = 0;
    },
  };
}
