// The form of keys, checked before one is sent: prefix, 43 digits, and 6 digits of CRC-32 over all of that.

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/** What is wrong with a key as it was entered; empty when nothing is. */
export function keyTrouble(key) {
  if (!/^fok_[0-9A-Za-z]{49}$/.test(key)) return "This is not a whole operator key: it begins with fok_ and has 53 characters. Copy it again.";
  if (key.slice(-6) !== tail(key.slice(0, -6))) return "This key was mistyped or changed: its checksum does not match. Copy it again.";
  return "";
}

function tail(head) {
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
