// Package keys is the one place that knows what a key is and how it is written in a store.
//
// A canonical key is non-empty UTF-8 without NUL, made of non-empty segments joined by "/". Canonical makes one out
// of what a user wrote; every other function expects canonical keys. "." and ".." are segments like any other: a key is
// a name, not a path, and nothing here resolves it.
//
// An Escaper rewrites what one store refuses or alters, and only that, so that ordinary keys look the same in the
// store's own tools. A Space joins the native root that the user chose with an Escaper: native names are built by Name
// and Prefix, and read by Key, nowhere else.
//
// # Escapes
//
// A character that cannot be stored is written as its code point: "=u", at least two upper-case hexadecimal digits
// without superfluous zeros, "-". The emoji U+1F600 is "=u1F600-", a tab "=u09-". Every character of an escape is in the
// narrowest list that any Consul version allowed (1.21.5: A-Z a-z 0-9 , _ . / \ - ? & =), means nothing to a shell inside a
// word, and survives a store that folds no case. A percent sign, the obvious introducer, is refused by that version and
// decoded by others.
//
// "=" alone is an ordinary character ("a=b", "size=10", "=u" stay as they are). It is escaped where it begins what would be
// read as an escape, so that decoding is exact: "=u09-" as a key is stored as "=u3D-u09-". An escape whose character is
// never escaped in that store ("=u41-") is literal text in both directions.
//
// Everything is decided inside one segment, whatever surrounds it. So the encoding of a prefix is a prefix of the
// encoding of what lies below, and segments can be encoded one by one. The order of encoded keys is not the order of
// keys: sort after decoding.
//
// All functions are pure, and safe for concurrent use.
package keys
