package rediskv

type contenders struct{}

func (c *contenders) wake(string)        {}
func (c *contenders) headChanged(string) {}
