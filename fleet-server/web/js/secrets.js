// Checks the format of an operator key before it is sent: prefix, 43 digits, and 6 digits of a CRC-32 over both.

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/** Describes the error in an entered key; empty if there is none. */
export function keyProblem(key) {
  if (!/^fok_[0-9A-Za-z]{49}$/.test(key)) return "This is not a complete operator key. A key begins with fok_ and has 53 characters. Copy it again.";
  if (key.slice(-6) !== checksum(key.slice(0, -6))) return "The checksum of this key does not match, so it was mistyped or changed. Copy it again.";
  return "";
}

function checksum(head) {
  let number = crc32(head);
  let text = "";
  for (let digit = 0; digit < 6; digit += 1) {
    text = DIGITS[number % 62] + text;
    number = Math.floor(number / 62);
  }
  return text;
}

function crc32(ascii) {
  let sum = 0xffffffff;
  for (const character of ascii) {
    sum ^= character.charCodeAt(0);
    for (let bit = 0; bit < 8; bit += 1) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return (sum ^ 0xffffffff) >>> 0;
}
