/** The demo's live view: a redrawn block in a terminal, plain lines elsewhere. */

export interface View {
  /** An event worth a line that stays. */
  event(text: string): void;
  /** The block below the events; only drawn in a terminal. */
  update(lines: readonly string[]): void;
  /** Leaves the block's last state standing. */
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
