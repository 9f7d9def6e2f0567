/**
 * Text of others for the terminals and logs of people: names that clients give themselves, what a peer says of an error, names of files.
 * A terminal obeys control characters; marks of writing direction make a line look like another one.
 */

/** C0, DEL, C1, line separators, marks of direction. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it looks for.
const NOT_PRINTABLE = /[\0-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;
const SHOWN_AS = '\ufffd';

/** @returns text as long as it was, on one line: a line break is a space. */
export function printable(text: string): string {
  return text.replaceAll(/[\r\n]/g, ' ').replaceAll(NOT_PRINTABLE, SHOWN_AS);
}
