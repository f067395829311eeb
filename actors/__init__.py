"""Who acts: one task, one inbox, one state value each; effects only through the interfaces they are given."""
