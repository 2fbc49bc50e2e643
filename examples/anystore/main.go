// Command anystore tells the quickstart's story on the store that a URL names.
package main

func main() {}
