/** The maintenance window: a part of the day, which may go over midnight. */

export interface Window {
  readonly fromMinute: number;
  readonly toMinute: number;
  readonly text: string;
}

/** @param text HH:MM */
export function minutesOfDay(text: string): number | undefined {
  const [, hours, minutes] = /^(\d\d):(\d\d)$/.exec(text) ?? [];
  const [hour, minute] = [Number(hours), Number(minutes)];
  return hour < 24 && minute < 60 ? hour * 60 + minute : undefined;
}

export function isInside({ fromMinute, toMinute }: Window, minute: number): boolean {
  if (fromMinute < toMinute) return minute >= fromMinute && minute < toMinute;
  return minute >= fromMinute || minute < toMinute;
}

/** @returns why nothing may begin at this time; undefined: it may. */
export function windowProblem(window: Window | undefined, now: Date): string | undefined {
  if (window === undefined || isInside(window, now.getHours() * 60 + now.getMinutes())) return undefined;
  return `it is outside of the maintenance window (${window.text}); run the same command again in it`;
}
