// Package rediskv stores keys in Redis.
package rediskv
