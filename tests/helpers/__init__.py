"""What several test files need, by what it is for; tests themselves do not belong here.

Code that tests run in fresh interpreters imports these modules, too.
"""
