package keys

import (
	"strings"
	"unicode"
)

// Consul is the Escaper for Consul's HTTP interface, /v1/kv/<key>, in its default configuration. It escapes what any
// version since 1.14 refuses or alters there, 1.21.5 excepted:
//
//   - What is not printable in the sense of unicode.IsPrint: control characters, every space but U+0020, format
//     characters such as the zero-width joiner, private use, unassigned. The agent answers 400
//     (agent/http.go: cleanhttp.PrintablePathCheckHandler). The agent asks the Unicode tables that it was built with, and
//     names must not move when a table grows, so the answer is frozen at Unicode 13 (the Go of Consul 1.14).
//   - The segments "." and "..": net/http's ServeMux redirects to the cleaned path, and since 1.21.6 the handler applies
//     path.Clean itself (agent/kvs_endpoint.go).
//   - A space at either end of a segment: since 1.21.6 a key must not begin or end with one (validateKVKey).
//   - "%" before two hexadecimal digits: since 1.21.6 a key that can be percent-decoded, and changes by it, is refused if
//     ".." or a space stands anywhere in the result (validateKVKey). "%41" in one segment thus makes "a b" in another one
//     illegal; a rule for single segments has to leave nothing to decode.
//
// 1.21.5 accepted only A-Z a-z 0-9 , _ . / \ - ? & = for a month, which hid existing keys with a space or an "é"; it was
// withdrawn (hashicorp/consul#22822, #22850). To please it would rename such keys everywhere. They do not work there.
//
// The URL cannot carry a leading slash (api.KV strips it, as path.Clean would), so the root of a Consul store must not
// have one. /v1/txn takes any string as a key and checks nothing.
func Consul() Escaper { return Escaper{consul} }

func consulRefuses(segment string, i int, r rune, width int) bool {
	switch {
	case r == ' ':
		return i == 0 || i+width == len(segment)
	case r == '%':
		return i+2 < len(segment) && isHex(segment[i+1]) && isHex(segment[i+2])
	case r == '.':
		return isDots(segment, i)
	}
	return !consulPrintable(r)
}

func consulPrintable(r rune) bool {
	if r < 0x7F {
		return r >= ' '
	}
	return unicode.Is(printable13, r)
}

// isDots reports whether segment is "." or ".." and i its first character. Escaping one of the dots is enough.
func isDots(segment string, i int) bool {
	return i == 0 && len(segment) <= 2 && strings.Trim(segment, ".") == ""
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
