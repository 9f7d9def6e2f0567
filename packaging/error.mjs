/** A package cannot be made: one line for whoever makes it. */
export class PackageError extends Error {}
