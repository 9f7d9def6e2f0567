/** How long an operation may take before the log of slow operations has it, as the user says it. */

const LIMIT_MAX_MS = 3_600_000;

/** 200ms, 2s. @returns milliseconds, or undefined for anything else. */
export function parseSlowLimit(text: string): number | undefined {
  const [, number, unit] = /^(\d{1,7})(ms|s)$/.exec(text) ?? [];
  if (number === undefined) return undefined;
  const ms = Number(number) * (unit === 's' ? 1000 : 1);
  return ms >= 1 && ms <= LIMIT_MAX_MS ? ms : undefined;
}
