package keys

import "unicode/utf8"

// The terminator differs from the introducer's first byte, and none of the characters between is ever escaped. So
// whether "=" begins an escape can be decided on the key and on its encoding alike, with the same answer.
const (
	introducer   = "=u"
	terminator   = '-'
	minDigits    = 2
	maxDigits    = 6
	maxEscapeLen = len(introducer) + maxDigits + 1
)

func appendEscape(dst []byte, r rune) []byte {
	const digits = "0123456789ABCDEF"
	dst = append(dst, introducer...)
	for n := hexDigits(r) - 1; n >= 0; n-- {
		dst = append(dst, digits[r>>(4*n)&0xF])
	}
	return append(dst, terminator)
}

func escapeLen(r rune) int { return len(introducer) + hexDigits(r) + 1 }

func hexDigits(r rune) int {
	n := minDigits
	for r >= 1<<(4*n) {
		n++
	}
	return n
}

// parseEscape reads the escape at the start of s. n is its length, 0 if there is none. It accepts exactly what
// appendEscape writes.
func parseEscape(s string) (r rune, n int) {
	if len(s) < len(introducer)+minDigits+1 || s[:len(introducer)] != introducer {
		return 0, 0
	}
	for i := len(introducer); i < len(s) && i < maxEscapeLen; i++ {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		case c == terminator && i-len(introducer) == hexDigits(r) && r != 0 && utf8.ValidRune(r):
			return r, i + 1
		default:
			return 0, 0
		}
	}
	return 0, 0
}
